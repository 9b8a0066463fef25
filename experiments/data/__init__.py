"""Small image data sets held in memory, for experiments that repeat to the bit."""

from experiments.data.augment import Augment
from experiments.data.cifar10 import CIFAR10
from experiments.data.digits import Digits
from experiments.data.fashion_mnist import FashionMNIST

__all__ = ["CIFAR10", "Augment", "Digits", "FashionMNIST"]
