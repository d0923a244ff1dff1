"""Studies: a config in several variants, each trained with several seeds, and the tables that compare them.

In reading order: options, plan, running, slurm; summary, statistics, results, tables.
"""
