"""A network as a file that other programs run: ONNX, or PyTorch's .pt2.

In reading order: graph, files, parity. nnet/detection/exported.py reads such files.
"""
