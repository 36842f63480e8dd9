"""GRiT's feature pyramid against the released code's values."""

from tests.support.grit_goldens import assert_near


def test_maps_are_those_of_the_released_code(run):
    p3, p4, p5, p6, p7 = run.maps

    assert_near(p3[:, ::4, ::4], f"{run.name}.p3_grid4", 2e-4)
    assert_near(p4[:, ::2, ::2], f"{run.name}.p4_grid2", 2e-4)
    for name, features in (("p5", p5), ("p6", p6), ("p7", p7)):
        assert_near(features, f"{run.name}.{name}", 2e-4)
