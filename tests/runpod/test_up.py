"""``up`` against the fake service: whatever happens, nothing is billed at the end."""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from multitask.errors import InputError, MultitaskError
from multitask.machine import protocol
from multitask.runpod.client import RunPod
from multitask.runpod.machines import (
    DearerError,
    HalfCreatedError,
    StillBilledError,
    StoppedBySignalError,
)
from multitask.runpod.problems import ServiceError
from multitask.runpod.up import Surroundings, _Up, quote
from multitask.spec import load_spec
from tests.runpod.conftest import FAST, Driver, Fleet
from tests.runpod.fake import KEY, FakeRunPod

Drive = Callable[..., Driver]


def test_a_run_is_trained_fetched_and_everything_is_removed(
    drive: Drive, fake: FakeRunPod, fleet: Fleet
) -> None:
    driver = drive()
    outcome = driver.up()
    assert outcome.ending is not None
    assert outcome.ending.phase == "done"
    assert (driver.run / "report.html").read_bytes() == b"<html>report</html>" * 500
    assert (driver.run / "evaluation" / "test" / "results.json").is_file()
    assert len(fake.ledger) == 3
    assert fake.billing == []
    assert driver.record.state == "gone"
    assert fleet.made[0].released


def test_the_request_describes_the_cluster_the_volume_and_the_limits(
    drive: Drive, fake: FakeRunPod
) -> None:
    driver = drive()
    driver.up(max_cost=50.0, env={"HF_TOKEN": "{{ RUNPOD_SECRET_hf }}"})
    (body,) = fake.bodies
    record, env = driver.record, body["env"]
    assert body["compute"] == {
        "gpuTypeId": "NVIDIA A100-SXM4-80GB",
        "gpuCountPerPod": 4,
        "podCount": 3,
    }
    assert body["mounts"] == {"network": [{"volumeId": driver.volume, "path": "/workspace/data"}]}
    assert body["dataCenterIds"] == ["US-KS-2"]
    assert env["HF_TOKEN"] == "{{ RUNPOD_SECRET_hf }}"
    assert env[protocol.ENV_ROLE] == "node"
    assert env[protocol.ENV_NAME] == body["name"] == f"multitask-{record.run_id}"
    seconds = float(env[protocol.ENV_DEADLINE]) - float(env[protocol.ENV_STARTED])
    price = float(env[protocol.ENV_PRICE])
    assert seconds / 3600 * price == pytest.approx(50.0 - 300 / 3600 * price, abs=0.02)
    assert float(env[protocol.ENV_MAX_COST]) == pytest.approx(50.0 - 300 / 3600 * price, abs=0.01)


def test_the_time_limit_is_told_to_the_machine(drive: Drive, fake: FakeRunPod) -> None:
    driver = drive()
    driver.up(max_cost=500.0, max_hours=2.0)
    env = fake.bodies[0]["env"]
    lasts = float(env[protocol.ENV_DEADLINE]) - float(env[protocol.ENV_STARTED])
    assert lasts == pytest.approx(2 * 3600 - 300, abs=2)


def test_one_machine_needs_no_volume_and_its_model_is_fetched(
    drive: Drive, fake: FakeRunPod
) -> None:
    driver = drive("1x8-a100-80gb")
    driver.up(volume=None)
    assert "mounts" not in fake.bodies[0]
    assert fake.bodies[0]["gpu"] == {"id": "NVIDIA A100-SXM4-80GB", "count": 8}
    assert (driver.run / "model" / "adapter_model.safetensors").is_file()
    assert not (driver.run / "model" / "checkpoint-5").exists()
    assert fake.billing == []


def test_the_record_is_the_owner_s_and_holds_no_key(drive: Drive) -> None:
    driver = drive()
    driver.up(env={"HF_TOKEN": "hf_secret"})
    path = driver.run / "runpod.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KEY not in path.read_text()
    assert "hf_secret" not in path.read_text()
    assert driver.record.token not in repr(driver.record)
    assert not any(driver.record.token in line or KEY in line for line in driver.said)


def test_nothing_is_rented_when_the_user_says_no(drive: Drive, fake: FakeRunPod) -> None:
    driver = drive()
    driver.agree = False
    with pytest.raises(MultitaskError, match="nothing was rented"):
        driver.up()
    assert fake.ledger == []


def test_a_run_dearer_than_the_budget_is_refused(drive: Drive, fake: FakeRunPod) -> None:
    with pytest.raises(InputError, match=r"more than --max-cost 0\.50"):
        drive().up(max_cost=0.5)
    assert fake.ledger == []


def test_nodes_without_a_shared_volume_are_refused(drive: Drive, fake: FakeRunPod) -> None:
    with pytest.raises(InputError, match="share checkpoints on a network volume"):
        drive().up(volume=None)
    assert fake.ledger == []


def test_an_unknown_volume_is_refused(drive: Drive, fake: FakeRunPod) -> None:
    with pytest.raises(InputError, match="no network volume 'nowhere'"):
        drive().up(volume="nowhere")
    assert fake.ledger == []


def test_a_volume_that_is_too_small_is_refused(drive: Drive, fake: FakeRunPod) -> None:
    with pytest.raises(InputError, match="the volume has 10 GB"):
        drive().up(volume=fake.add_volume(size=10))


def test_lack_of_capacity_falls_back_to_the_next_shape(
    drive: Drive, fake: FakeRunPod, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The configuration itself is validated elsewhere; here it would cost a minute.
    monkeypatch.setattr("multitask.build.axolotl_installed", lambda: False)
    fake.faults.no_capacity = {(3, 4), (2, 8)}
    driver = drive()
    driver.up(shapes=("3x4-a100-80gb", "2x8-a100-80gb", "1x8-a100-80gb"))
    assert driver.record.shape == "1x8-a100-80gb"
    assert [entry.rate for entry in fake.ledger] == [pytest.approx(1.39 * 8)]
    assert fake.billing == []
    assert "NODE_RANK" not in (driver.run / "launch" / "node.sh").read_text().split("fail")[0]
    listed = json.loads(fleet.made[0].files[protocol.BUNDLE_FILE])
    assert {"axolotl.yaml", "accelerate.yaml", "data/train.jsonl"} <= {f["path"] for f in listed}


def test_no_capacity_anywhere_names_every_answer(drive: Drive, fake: FakeRunPod) -> None:
    fake.faults.no_capacity = {(3, 4)}
    driver = drive()
    with pytest.raises(MultitaskError, match="3x4-a100-80gb: There are no longer any instances"):
        driver.up()
    assert fake.ledger == []
    assert not (driver.run / "runpod.json").exists()


def test_too_many_requests_are_waited_out(drive: Drive, fake: FakeRunPod) -> None:
    fake.faults.rate_limited = 5
    drive().up()
    assert fake.billing == []


def test_a_key_that_is_not_accepted_says_where_to_make_one(drive: Drive, fake: FakeRunPod) -> None:
    fake.faults.unauthorized = True
    with pytest.raises(ServiceError, match=r"RUNPOD_API_KEY[\s\S]*console.runpod.io"):
        drive().up()
    assert fake.ledger == []


def test_an_empty_account_ends_it_at_once(drive: Drive, fake: FakeRunPod) -> None:
    fake.faults.no_balance = True
    driver = drive()
    with pytest.raises(ServiceError, match="insufficient balance"):
        driver.up()
    assert len(fake.bodies) == 1
    assert not (driver.run / "runpod.json").exists()


def test_failures_of_the_service_are_tried_again(drive: Drive, fake: FakeRunPod) -> None:
    fake.faults.failing = 3
    fake.faults.failed_creations = 1
    drive().up()
    assert len(fake.ledger) == 3
    assert fake.billing == []


def test_a_creation_whose_answer_is_lost_is_not_done_twice(drive: Drive, fake: FakeRunPod) -> None:
    fake.faults.lost_answers = 1
    drive().up()
    assert len(fake.bodies) == 1
    assert len(fake.ledger) == 3
    assert fake.billing == []


@pytest.mark.parametrize("fault", ["half", "broken", "stuck"])
def test_a_cluster_that_does_not_come_up_whole_is_removed(
    drive: Drive, fake: FakeRunPod, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr("multitask.build.axolotl_installed", lambda: False)
    setattr(fake.faults, fault, {(3, 4)})
    driver = drive()
    with pytest.raises(MultitaskError, match="no shape was to be had: 3x4-a100-80gb"):
        driver.up(timing=replace(FAST, ready=0.5))
    assert len(fake.ledger) in (2, 3)
    assert fake.billing == []


def test_a_higher_price_than_planned_is_asked_about(drive: Drive, fake: FakeRunPod) -> None:
    fake.faults.price_factor = 1.5
    driver = drive()
    driver.up(max_cost=100.0)
    assert len(driver.asked) == 2
    assert driver.asked[1][0].usd_per_hour == pytest.approx(1.39 * 12 * 1.5)
    assert float(fake.bodies[1]["env"][protocol.ENV_PRICE]) == pytest.approx(1.39 * 12 * 1.5)
    assert fake.billing == []


def test_a_price_above_the_budget_ends_it(drive: Drive, fake: FakeRunPod) -> None:
    fake.faults.price_factor = 20.0
    with pytest.raises(InputError, match="more than --max-cost"):
        drive().up(max_cost=30.0)
    assert fake.billing == []


def test_a_refused_price_ends_it(drive: Drive, fake: FakeRunPod) -> None:
    fake.faults.price_factor = 1.5
    driver = drive()
    answers = iter([True, False])
    driver._ask = lambda _found: next(answers)  # type: ignore[method-assign]
    with pytest.raises(DearerError, match=r"not \$16\.7"):
        driver.up(max_cost=100.0)
    assert fake.billing == []


def test_an_answer_without_a_needed_field_names_it(drive: Drive, fake: FakeRunPod) -> None:
    fake.faults.missing = "clusters"
    with pytest.raises(MultitaskError, match=r"GET /clusters: .*'clusters'"):
        drive().up()


def test_a_failed_training_is_reported_and_removed(
    drive: Drive, fake: FakeRunPod, fleet: Fleet
) -> None:
    fleet.settings = {"ending": "failed"}
    driver = drive()
    with pytest.raises(MultitaskError, match="the job is failed: out of memory"):
        driver.up()
    assert (driver.run / "logs" / "train.log").is_file()
    assert len(fleet.made) == 1
    assert fake.billing == []


def test_cut_transfers_are_resumed(drive: Drive, fake: FakeRunPod) -> None:
    fake.faults.cut_proxied = 6
    driver = drive()
    driver.up()
    assert (driver.run / "report.html").read_bytes() == b"<html>report</html>" * 500
    assert not list(driver.run.rglob("*.partial"))
    assert fake.billing == []


def test_a_network_that_is_cut_for_a_while_costs_nothing(
    drive: Drive, fake: FakeRunPod, fleet: Fleet
) -> None:
    fleet.settings = {"hold": True}
    driver = drive()
    seen = threading.Event()

    def on_status(status: Any) -> None:
        if status["phase"] == "training" and not seen.is_set():
            seen.set()
            fake.faults.network_down = True
            threading.Timer(0.3, back).start()

    def back() -> None:
        fake.faults.network_down = False
        fleet.made[0].hold.clear()

    driver.on_status = on_status
    outcome = driver.up()
    assert outcome.ending is not None
    assert outcome.ending.phase == "done"
    assert len(fleet.made) == 1
    assert fake.billing == []


def test_a_network_that_stays_away_ends_with_the_command_that_removes(
    drive: Drive, fake: FakeRunPod, fleet: Fleet
) -> None:
    fleet.settings = {"hold": True}
    driver = drive()

    def on_status(status: Any) -> None:
        if status["phase"] == "training":
            fake.faults.network_down = True
            driver.signals.count += 2

    driver.on_status = on_status
    with pytest.raises(StillBilledError) as caught:
        driver.up()
    assert f"multitask runpod down {driver.record.name}" in str(caught.value)
    assert driver.record.state != "gone"
    fake.faults.network_down = False
    assert len(fake.billing) == 3


def test_a_deletion_that_is_not_done_is_asked_for_again(drive: Drive, fake: FakeRunPod) -> None:
    fake.faults.keep_deleted = 2
    drive().up()
    assert fake.billing == []


def test_a_dead_pod_is_replaced_and_the_run_completes(
    drive: Drive, fake: FakeRunPod, fleet: Fleet
) -> None:
    fleet.settings = {"hold": True}
    driver = drive("1x8-a100-80gb")

    def on_status(status: Any) -> None:
        if status["phase"] == "training" and len(fleet.made) == 1:
            fleet.settings = {}
            fake.kill(fleet.made[0].pod.id)

    driver.on_status = on_status
    outcome = driver.up()
    assert outcome.ending is not None
    assert outcome.ending.phase == "done"
    assert len(fleet.made) == 2
    assert driver.record.spent > 0
    assert fake.billing == []


def test_a_dead_node_of_a_cluster_ends_its_rental(
    drive: Drive, fake: FakeRunPod, fleet: Fleet
) -> None:
    fleet.settings = {"hold": True}
    driver = drive()
    killed = []

    def on_status(status: Any) -> None:
        if status["phase"] == "training" and not killed:
            killed.append(next(p.id for p in fake.pods.values() if p.rank == 2))
            pod = fake.pods[killed[0]]
            pod.stuck = "ERROR"
            fake.kill(pod.id)

    driver.on_status = on_status
    with pytest.raises(MultitaskError, match=r"the job is dead: pod .* \(node 2\) is"):
        driver.up(retries=0)
    assert f"POST /pods/{killed[0]}/action" in fake.requests
    assert fake.billing == []


def test_a_second_up_takes_up_the_machines_of_the_first(
    drive: Drive, fake: FakeRunPod, fleet: Fleet
) -> None:
    fleet.settings = {"hold": True}
    driver = drive()
    left = driver.up(detach=True)
    assert left.ending is None
    assert len(fake.billing) == 3
    fleet.made[0].hold.clear()
    outcome = driver.up()
    assert outcome.ending is not None
    assert outcome.ending.phase == "done"
    assert len(fake.bodies) == 1
    assert fake.billing == []


def test_machines_without_a_record_are_found_by_their_name(
    drive: Drive, fake: FakeRunPod, fleet: Fleet
) -> None:
    fleet.settings = {"hold": True}
    driver = drive()
    driver.up(detach=True)
    (driver.run / "runpod.json").unlink()
    fleet.made[0].hold.clear()
    driver.up()
    assert len(fake.bodies) == 1
    assert fake.billing == []


def test_a_detached_machine_needs_no_client(drive: Drive, fake: FakeRunPod, fleet: Fleet) -> None:
    fleet.settings = {"hold": True}
    drive().up(detach=True)
    assert fake.bodies[0]["env"][protocol.ENV_LOST_CLIENT] == "0"


def test_a_machine_that_ended_by_itself_is_not_rented_again_unasked(
    drive: Drive, fake: FakeRunPod, fleet: Fleet
) -> None:
    fleet.settings = {"hold": True}
    driver = drive()
    driver.up(detach=True)
    with fake.lock:
        fake._delete_cluster(driver.record.id)
    with pytest.raises(MultitaskError, match="has ended by itself"):
        driver.up()
    assert len(fake.bodies) == 1
    fleet.settings = {}
    driver.up(again=True)
    assert len(fake.bodies) == 2
    assert fake.billing == []


def test_a_run_that_changed_is_not_sent_to_the_old_machines(
    drive: Drive, fake: FakeRunPod, fleet: Fleet
) -> None:
    fleet.settings = {"hold": True}
    driver = drive()
    driver.up(detach=True)
    (driver.run / "axolotl.yaml").write_text("changed: true\n")
    with pytest.raises(InputError, match="the run has changed"):
        driver.up()


def test_kept_machines_stay_until_their_deadline(drive: Drive, fake: FakeRunPod) -> None:
    driver = drive()
    driver.up(keep=True)
    assert len(fake.billing) == 3
    env = fake.bodies[0]["env"]
    lasts = float(env[protocol.ENV_DEADLINE]) - float(env[protocol.ENV_STARTED])
    assert float(env[protocol.ENV_GRACE]) == pytest.approx(lasts, abs=1)


def test_one_signal_saves_a_checkpoint_first(drive: Drive, fake: FakeRunPod, fleet: Fleet) -> None:
    fleet.settings = {"hold": True}
    driver = drive("1x8-a100-80gb")

    def on_status(status: Any) -> None:
        if status["phase"] == "training" and not driver.signals.count:
            driver.signals.count += 1

    driver.on_status = on_status
    with pytest.raises(StoppedBySignalError, match="nothing is billed"):
        driver.up(volume=None)
    assert fleet.made[0].stopped
    assert (driver.run / "model" / "checkpoint-3" / "trainer_state.json").is_file()
    assert fake.billing == []


def test_two_signals_remove_at_once(drive: Drive, fake: FakeRunPod, fleet: Fleet) -> None:
    fleet.settings = {"hold": True}
    driver = drive()

    def on_status(status: Any) -> None:
        if status["phase"] == "training":
            driver.signals.count += 2

    driver.on_status = on_status
    with pytest.raises(StoppedBySignalError, match="interrupted twice"):
        driver.up()
    assert not fleet.made[0].stopped
    assert fake.billing == []


def test_a_signal_while_machines_start_removes_them(drive: Drive, fake: FakeRunPod) -> None:
    driver = drive()
    fake.faults.stuck = {(3, 4)}
    fake_handle = fake.handle

    def handle(*arguments: Any) -> Any:
        if len(fake.ledger) == 3:
            driver.signals.count = 1
        return fake_handle(*arguments)

    fake.handle = handle  # type: ignore[method-assign]
    with pytest.raises(StoppedBySignalError, match="while the machines were starting"):
        driver.up()
    assert len(fake.ledger) == 3
    assert fake.billing == []


def test_a_gated_model_without_a_token_is_refused_before_renting(
    drive: Drive, fake: FakeRunPod
) -> None:
    from multitask.models import model_info
    from multitask.runpod.before import check_variables
    from multitask.spec import Spec

    driver = drive()
    spec = Spec(model="meta-llama/Llama-3.1-8B-Instruct", tasks=("banking77",))
    model = model_info(spec.model, driver.run)
    with pytest.raises(InputError, match="--secret HF_TOKEN=SECRET_NAME"):
        check_variables(spec, model, driver.options())
    check_variables(spec, model, driver.options(env={"HF_TOKEN": "x"}))


def test_results_that_nobody_would_fetch_are_refused(drive: Drive, fake: FakeRunPod) -> None:
    with pytest.raises(InputError, match="nobody would fetch the results"):
        drive("1x8-a100-80gb").up(detach=True, volume=None)
    assert fake.ledger == []


def test_a_wish_to_stop_survives_a_proxy_that_is_away(
    drive: Drive, fake: FakeRunPod, fleet: Fleet
) -> None:
    fleet.settings = {"hold": True}
    driver = drive()

    def back() -> None:
        fake.faults.proxy_down = False

    def on_status(status: Any) -> None:
        if status["phase"] == "training" and not driver.signals.count:
            fake.faults.proxy_down = True
            driver.signals.count += 1
            threading.Timer(0.2, back).start()

    driver.on_status = on_status
    with pytest.raises(StoppedBySignalError):
        driver.up()
    assert fleet.made[0].stopped
    assert (driver.run / "logs" / "train.log").is_file()
    assert fake.billing == []


def test_a_machine_in_place_of_a_dead_one_has_the_same_end(
    drive: Drive, fake: FakeRunPod, fleet: Fleet
) -> None:
    fleet.settings = {"hold": True}
    driver = drive("1x8-a100-80gb")

    def on_status(status: Any) -> None:
        if status["phase"] == "training" and len(fleet.made) == 1:
            fleet.settings = {}
            fake.kill(fleet.made[0].pod.id)

    driver.on_status = on_status
    driver.up(max_hours=2.0, max_cost=500.0)
    ends = [float(body["env"][protocol.ENV_DEADLINE]) for body in fake.bodies]
    assert ends[1] == pytest.approx(ends[0], abs=2)


def test_what_is_left_of_the_budget_must_carry_the_next_shape(drive: Drive) -> None:
    driver = drive()
    with RunPod() as service:
        around = Surroundings(
            service, lambda _: True, print, lambda _: driver, lambda *_: None, driver.signals
        )
        spec = load_spec(driver.run)
        up = _Up(spec, driver.run, driver.options(), around)
        (offer,) = quote(spec, driver.run, driver.options(), service=None, say=print)
        assert offer.needed is not None
        up._spent = 1.0
        up._require_rest(offer, offer.needed + 1.0)
        with pytest.raises(HalfCreatedError, match="are left, and it needs"):
            up._require_rest(offer, offer.needed + 0.9)


def test_a_failed_removal_after_an_error_says_both(
    drive: Drive, fake: FakeRunPod, fleet: Fleet
) -> None:
    fleet.settings = {"hold": True}
    driver = drive()
    fake.faults.keep_deleted = 10_000

    def on_status(status: Any) -> None:
        driver.signals.count = 2

    driver.on_status = on_status
    with pytest.raises(StillBilledError, match="COULD NOT BE CONFIRMED"):
        driver.up(timing=replace(FAST, gone=0.2))
    assert any(line.startswith("error: interrupted twice") for line in driver.said)


def test_a_long_cut_of_the_network_is_no_silence_of_the_machine(
    drive: Drive, fake: FakeRunPod, fleet: Fleet
) -> None:
    fleet.settings = {"hold": True}
    driver = drive()
    cut = threading.Event()

    def back() -> None:
        # First RunPod answers again, and the machine's proxy a moment later.
        fake.faults.proxy_down, fake.faults.network_down = True, False
        threading.Timer(0.3, whole).start()

    def whole() -> None:
        fake.faults.proxy_down = False
        fleet.made[0].hold.clear()

    def on_status(status: Any) -> None:
        if status["phase"] == "training" and not cut.is_set():
            cut.set()
            fake.faults.network_down = True
            threading.Timer(4 * FAST.silence, back).start()

    driver.on_status = on_status
    outcome = driver.up()
    assert outcome.ending is not None
    assert outcome.ending.phase == "done"
    assert len(fleet.made) == 1


def test_a_machine_that_stays_silent_is_removed(
    drive: Drive, fake: FakeRunPod, fleet: Fleet
) -> None:
    fleet.settings = {"hold": True}
    driver = drive()

    def on_status(status: Any) -> None:
        fake.faults.proxy_down = status["phase"] == "training"

    driver.on_status = on_status
    with pytest.raises(MultitaskError, match="the control server is silent"):
        driver.up(retries=0)
    assert fake.billing == []


def test_a_cut_while_machines_start_is_waited_out(
    drive: Drive, fake: FakeRunPod, fleet: Fleet
) -> None:
    driver = drive()
    handle = fake.handle

    def back() -> None:
        fake.faults.network_down = False

    def cut_once(method: str, path: str, *rest: Any) -> Any:
        if path.endswith("/pods") and path.startswith("/clusters/") and fake.handle is not handle:
            fake.handle = handle  # type: ignore[method-assign]
            fake.faults.network_down = True
            threading.Timer(0.8, back).start()
        return handle(method, path, *rest)

    fake.handle = cut_once  # type: ignore[method-assign]
    driver.up()
    assert any("no answer from RunPod" in line for line in driver.said)
    assert len(fake.bodies) == 1
    assert fake.billing == []


def test_a_removal_needs_no_listing_that_can_be_read(
    drive: Drive, fake: FakeRunPod, fleet: Fleet
) -> None:
    driver = drive()

    def on_status(status: Any) -> None:
        fake.faults.missing = "clusters"

    driver.on_status = on_status
    with pytest.raises(StillBilledError, match="'clusters'"):
        driver.up(timing=replace(FAST, gone=0.2))
    assert fake.billing == []
