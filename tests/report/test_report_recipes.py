"""The report has words for every setting of every recipe."""

import dataclasses

from p1 import recipes as p1
from p2 import recipes as p2
from p3 import recipes as p3
from report import recipes

KINDS = (p1.Recipe, p2.PretrainRecipe, p2.TransferRecipe, p2.View, p3.Recipe, p3.PretrainRecipe)


def test_no_setting_is_shown_by_its_name_in_the_code():
    fields = {field.name for kind in KINDS for field in dataclasses.fields(kind)}
    not_recorded = {"source", "pretrained"}
    assert fields - recipes.WORDS.keys() - recipes.ELSEWHERE == not_recorded
