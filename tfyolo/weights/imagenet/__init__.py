"""Published ImageNet weights of backbones: what their option `weights` names. Only the start of training reads it."""

from tfyolo.weights.imagenet.pretrained import PRETRAINED, Pretrained

__all__ = ["PRETRAINED", "Pretrained"]
