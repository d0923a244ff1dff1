"""Running a network, one room per subject: runtime, families, detection, export, analysis, drawing, training, report,
studies. api.py holds `load_detector` for use in Python.

Each room imports only from those before it in this list.
"""
