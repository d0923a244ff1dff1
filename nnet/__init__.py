"""Running a network, one room per subject: runtime, families, detection, export, analysis, drawing, training, report,
studies.

Each room imports only from those before it in this list.
"""
