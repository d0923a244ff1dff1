"""A network as a file that other programs run: ONNX, or PyTorch's .pt2.

In reading order: graph, files, parity. nnet/runtime/exported.py reads such files, and
nnet/families/exported.py puts them in the place of a network.
"""
