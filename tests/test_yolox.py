"""YOLOX: its network against published outputs and names, its assigner and loss against loops in float64, its recipe."""
