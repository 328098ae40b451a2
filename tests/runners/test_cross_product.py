"""Every method on every model on every cluster either makes a configuration or says why not."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from pathlib import Path

import pytest
import yaml

from multitask.errors import InputError
from multitask.models import families, model_info
from multitask.planning.decide import decide
from multitask.resources import config_names
from multitask.runners.axolotl.checks import check_config, plan_of
from multitask.runners.axolotl.file import axolotl_file
from multitask.runners.axolotl.validate import AxolotlValidator, axolotl_installed
from multitask.spec import Spec

_MODELS = sorted({i for family in families().values() for i in family.ids})
_METHODS = config_names("methods")
_CLUSTERS = config_names("clusters")


_ALL = list(itertools.product(_MODELS, _METHODS, _CLUSTERS))
_SAMPLE = random.Random(0).sample(_ALL, 400)


@pytest.mark.parametrize(
    "combinations",
    [pytest.param(_SAMPLE, id="sample"), pytest.param(_ALL, id="all", marks=pytest.mark.slow)],
)
def test_combinations_make_a_file_or_a_reason(combinations: list[tuple[str, str, str]]) -> None:
    outcomes: Counter[str] = Counter()
    infos = {model: model_info(model, Path("/nowhere")) for model, _, _ in combinations}
    for model, method, cluster in combinations:
        info = infos[model]
        spec = Spec(
            model=model,
            tasks=("banking77",),
            method=method,
            cluster=cluster,
            trust_remote_code=info.trust_remote_code,
        )
        try:
            setup = decide(spec, info, refuse=False)
        except InputError as refusal:
            outcomes["refused" if "fix:" in str(refusal) else "without reason"] += 1
            continue
        found = setup.estimate
        if found is not None and found.fits is False:
            outcomes["does not fit" if found.why_not else "without reason"] += 1
            continue
        outcomes["made"] += 1
        file = axolotl_file(setup)
        findings = check_config(plan_of(setup))
        errors = [finding for finding in findings if not finding.passed]
        assert not errors, (model, method, cluster, errors)
        if outcomes["made"] % 50 == 0:  # parsing is slow
            assert yaml.safe_load(file.to_yaml()) == file.config
    assert outcomes.total() == len(combinations)
    assert len(_ALL) > 5000
    assert outcomes["without reason"] == 0
    assert outcomes["made"] > outcomes["does not fit"] > 0
    print(outcomes)  # noqa: T201 (the count, for who runs it with -s)


@pytest.mark.skipif(not axolotl_installed(), reason="Axolotl is not installed")
@pytest.mark.parametrize("each", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_axolotl_accepts_a_sample_of_them(tmp_path: Path, each: int) -> None:
    """Its validator takes up to a second for each, so a seeded few of each method are asked."""
    rng = random.Random(0)
    accepted = 0
    with AxolotlValidator() as validator:
        for method in _METHODS:
            for model in rng.sample(_MODELS, each):
                info = model_info(model, Path("/nowhere"))
                spec = Spec(
                    model=model,
                    tasks=("banking77",),
                    method=method,
                    cluster=rng.choice(_CLUSTERS),
                    trust_remote_code=info.trust_remote_code,
                )
                setup = decide(spec, info, refuse=False)
                path = tmp_path / "axolotl.yaml"
                path.write_text(axolotl_file(setup).to_yaml())
                validator.validate(path, setup.cluster)
                accepted += 1
    assert accepted == each * len(_METHODS)
