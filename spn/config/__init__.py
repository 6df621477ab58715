"""params.yaml as frozen, validated objects. Imports no torch, so that the Snakefile loads fast."""

from spn.config.counts import split_counts
from spn.config.data import (
    PICTURE_FORMATS,
    ArraysData,
    Cifar10Data,
    DataSection,
    DigitsData,
    FolderData,
    Limit,
    MnistData,
    PhotosData,
)
from spn.config.errors import InputError
from spn.config.first_stage import FirstStageSection
from spn.config.model import (
    FamilySection,
    GatedPixelCnnSection,
    ImageBartSection,
    Law,
    ModelSection,
    PixelCnnPpSection,
    PixelSnailSection,
    SliceEmbedderSection,
    SpnSection,
)
from spn.config.params import (
    ChainSection,
    CodecSection,
    CompletionSection,
    ExportSection,
    Params,
    SamplingSection,
    StageSection,
    View,
    load_params,
    params_schema,
)
from spn.config.tiling import StagePlan, tile
from spn.config.training import AdamW, Muon, RMSProp, TrainingSection

__all__ = [
    "PICTURE_FORMATS",
    "AdamW",
    "ArraysData",
    "ChainSection",
    "Cifar10Data",
    "CodecSection",
    "CompletionSection",
    "DataSection",
    "DigitsData",
    "ExportSection",
    "FamilySection",
    "FirstStageSection",
    "FolderData",
    "GatedPixelCnnSection",
    "ImageBartSection",
    "InputError",
    "Law",
    "Limit",
    "MnistData",
    "ModelSection",
    "Muon",
    "Params",
    "PhotosData",
    "PixelCnnPpSection",
    "PixelSnailSection",
    "RMSProp",
    "SamplingSection",
    "SliceEmbedderSection",
    "SpnSection",
    "StagePlan",
    "StageSection",
    "TrainingSection",
    "View",
    "load_params",
    "params_schema",
    "split_counts",
    "tile",
]
