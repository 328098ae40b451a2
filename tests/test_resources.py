"""Every shipped configuration and template is read by the code that uses it."""

from __future__ import annotations

import pytest

from multitask.cluster import derive_batch, load_cluster
from multitask.errors import InputError
from multitask.resources import config_names, load_config, resource_dir
from multitask.runners.axolotl import axolotl_config
from multitask.runners.model_info import ModelInfo
from multitask.spec import Spec, load_spec
from multitask.tasks import load_task, task_names


def test_all_yaml_files_are_known_to_a_loader() -> None:
    found = sorted(resource_dir("configs").rglob("*.yaml"))
    groups = {path.parent.name for path in found}
    assert len(found) >= 10
    assert groups == {"clusters", "methods", "models", "examples"}


@pytest.mark.parametrize("name", config_names("clusters"))
def test_clusters_load_and_take_a_batch(name: str) -> None:
    cluster = load_cluster(name)
    batch = derive_batch(None, cluster)
    assert batch.micro * batch.accumulation * cluster.world_size == batch.global_size


@pytest.mark.parametrize("method", config_names("methods"))
@pytest.mark.parametrize("cluster", config_names("clusters"))
def test_methods_make_a_configuration_for_every_cluster(method: str, cluster: str) -> None:
    spec = Spec(model="a/b", tasks=("banking77",), method=method, cluster=cluster)
    config = axolotl_config(spec, load_cluster(cluster), ModelInfo(None, None))
    assert config["learning_rate"] == load_config("methods", method, key="method")["learning_rate"]


@pytest.mark.parametrize("name", config_names("models"))
def test_models_name_a_layer_class_that_transformers_has(name: str) -> None:
    pytest.importorskip("transformers")
    import importlib

    entry = load_config("models", name, key="model")
    for model_type in entry["model_types"]:
        module = importlib.import_module(f"transformers.models.{model_type}.modeling_{model_type}")
        assert hasattr(module, entry["layer_class"])


@pytest.mark.parametrize("name", config_names("examples"))
def test_examples_are_valid_specs(name: str) -> None:
    load_spec(resource_dir("configs/examples") / f"{name}.yaml")


@pytest.mark.parametrize("name", task_names())
def test_templates_have_names_of_their_own(name: str) -> None:
    task = load_task(name, ("a", "b"))
    names = [template.name for template in task.templates]
    assert names
    assert len(set(names)) == len(names)


def test_an_unknown_name_is_answered_with_a_suggestion() -> None:
    with pytest.raises(InputError, match="did you mean '3x4-a100-80gb'"):
        load_cluster("3x4-a100-80g")
