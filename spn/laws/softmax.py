"""A softmax over the levels (van den Oord et al. 2016, Sec. 3.2)."""

from jaxtyping import Float, Int
from torch import Tensor

from spn.layers import Scale
from spn.likelihood import Categorical, Law, OutputLaw


class SoftmaxOutputLaw(OutputLaw):
    """A logit for each level. Known bits condition the network, but not the law."""

    is_large = True

    def __init__(self, num_levels: int) -> None:
        self.num_outputs = num_levels

    def __call__(self, outputs: Float[Tensor, "*batch _"], high: Int[Tensor, "*batch"] | None) -> Law:
        """Return the laws [*batch]."""
        return Categorical(outputs)


def output_law(scale: Scale, num_mixtures: int) -> OutputLaw:
    """Return the output law over the levels of a stage."""
    return SoftmaxOutputLaw(scale.num_levels)
