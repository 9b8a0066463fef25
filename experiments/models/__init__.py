"""Reference models for small images, as plain ``nn.Module``s."""

from experiments.models.lenet import LeNet
from experiments.models.mlp import MLP
from experiments.models.resnet import ResNet

__all__ = ["MLP", "LeNet", "ResNet"]
