"""Pictures that test.py draws of each image, one file per picture; base.py has their interface.

A new picture is a new file here: a class with the interface of `Picture` is found by its `name`.
"""
