"""Running a network, one room per subject: runtime, families, detection, export, analysis, drawing, training, report.

Each room imports only from those before it in this list.
"""
