"""The walk over a slice and what drives it: sampling and scoring."""

from spn.generation.inpaint import inpaint_chain_stage
from spn.generation.sample import sample_chain_stage, sample_stage
from spn.generation.samplers import SAMPLERS, Draw, choosing, forcing
from spn.generation.uniforms import keyed_uniforms
from spn.generation.walk import Choose, WholePasses, build_steps, replay, walk

__all__ = [
    "SAMPLERS",
    "Choose",
    "Draw",
    "WholePasses",
    "build_steps",
    "choosing",
    "forcing",
    "inpaint_chain_stage",
    "keyed_uniforms",
    "replay",
    "sample_chain_stage",
    "sample_stage",
    "walk",
]
