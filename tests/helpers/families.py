"""Small sections of every family, and of their laws."""

from contract import SMALL

from spn.config import FamilySection, GatedPixelCnnSection, ImageBartSection, PixelCnnPpSection, PixelSnailSection

GATED = GatedPixelCnnSection(family="gated_pixelcnn", width=24, layers=2, mixtures=2, embedder_layers=1)
PLUS_PLUS = PixelCnnPpSection(family="pixelcnn_pp", filters=6, resnets=1, mixtures=2, embedder_layers=1, dropout=0.0)
SNAIL = PixelSnailSection(
    family="pixelsnail",
    width=8,
    blocks=2,
    resnets=1,
    key_width=4,
    value_width=6,
    mixtures=2,
    embedder_layers=1,
)
BART = ImageBartSection(family="imagebart", width=8, heads=2, decoder_layers=2, encoder_layers=1, mixtures=2)


def changed(section: FamilySection, **changes: object) -> FamilySection:
    return section.model_copy(update=changes)


SECTIONS: dict[str, FamilySection] = {
    "spn_mixture": changed(SMALL, law="mixture", mixtures=2),
    "spn_placed": changed(SMALL, law="placed_mixture", mixtures=2, relative_cells=True),
    "spn_head": changed(SMALL, law="placed_mixture", mixtures=2, channel_order="head"),
    "spn_head_softmax": changed(SMALL, channel_order="head"),
    "gated_pixelcnn": GATED,
    "gated_pixelcnn_mixture": changed(GATED, law="mixture", layers=3),
    "gated_pixelcnn_head": changed(GATED, law="mixture", channel_order="head"),
    "pixelcnn_pp": PLUS_PLUS,
    "pixelcnn_pp_softmax": changed(PLUS_PLUS, law="softmax", resnets=2, downsampling=False),
    "pixelcnn_pp_no_short_cuts": changed(PLUS_PLUS, short_cuts=False),
    "pixelcnn_pp_placed": changed(PLUS_PLUS, law="placed_mixture", relative_cells=True),
    "pixelsnail": SNAIL,
    "pixelsnail_softmax": changed(SNAIL, law="softmax"),
    "imagebart": BART,
    "imagebart_aligned": changed(BART, aligned_context=True),
    "imagebart_mixture": changed(BART, law="mixture"),
}

SCALES = {name: SECTIONS[name] for name in ("gated_pixelcnn", "pixelcnn_pp", "pixelsnail", "imagebart")} | {
    "spn": SMALL,
    "imagebart_residual": changed(BART, residual=True),
    "imagebart_residual_mixture": changed(BART, residual=True, law="mixture"),
}
"""Families as scales of a diffusion, for which ImageBART has a form of its own."""
