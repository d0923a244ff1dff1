"""Analyses that test.py makes beyond COCO's figures, one file per analysis; base.py has their interface.

A new analysis is a new file here: a class with the interface of `Analysis` is found by its `name`. overlap has what
several of them need. classes has the figures by class, bootstrap the differences between two runs, and tables gathers
finished runs into the papers' tables.
"""
