"""First stages: auto-encoders between images and grids of codes, their figures, and the spacing of noise levels."""

from spn.first_stages.figures import SplitFigures, ssim
from spn.first_stages.spacing import KEPT, MEASURED, distortion, equal_steps
from spn.first_stages.vq import VqAutoencoder

__all__ = ["KEPT", "MEASURED", "SplitFigures", "VqAutoencoder", "distortion", "equal_steps", "ssim"]
