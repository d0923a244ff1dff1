"""Compiled code, knowing nothing of the rest: directional max pools (C++, CUDA) and soft-NMS (C)."""
