"""What the tests of this folder share."""

import pytest


@pytest.fixture
def small_allegro():
    """Makes an Allegro of nequip-allegro that trains in seconds, in float64."""

    def make(type_names, l_max, num_layers):
        from allegro.model import AllegroModel

        return AllegroModel(
            seed=1,
            model_dtype="float64",
            r_max=3.5,
            type_names=type_names,
            l_max=l_max,
            radial_chemical_embed={"_target_": "allegro.nn.TwoBodyBesselScalarEmbed", "num_bessels": 8},
            radial_chemical_embed_dim=8,
            scalar_embed_mlp_hidden_layers_depth=1,
            scalar_embed_mlp_hidden_layers_width=8,
            num_layers=num_layers,
            num_scalar_features=8,
            num_tensor_features=4,
            allegro_mlp_hidden_layers_depth=1,
            allegro_mlp_hidden_layers_width=8,
            readout_mlp_hidden_layers_depth=1,
            readout_mlp_hidden_layers_width=8,
            avg_num_neighbors=7.0,
        )

    return make
