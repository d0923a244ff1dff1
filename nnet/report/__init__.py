"""Pages and tables about finished runs of test.py.

`python -m nnet.report RUN [RUN]` writes a page, `python -m nnet.report.compare RUN RUN` prints a table of differences.
In reading order: runs, what was run; compare; gallery, images and boxes of the page; plots, its charts; page; write,
which calls all of them.
"""
