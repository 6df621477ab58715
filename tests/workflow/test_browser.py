"""What a person sees of a finished experiment in MLflow's pages. Screenshots are kept in test-output/."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from browser import Person, chromium
from experiment import tiny_params
from mlflow_server import MlflowServer, listening
from workspace import finished

from spn.tracking import Experiment, load_experiment

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("workspace")]

SCREENSHOTS = Path(__file__).parents[2] / "test-output"
RUN_NAME = "attributes.`Run Name`"
BITS_PER_DIM = "metrics.`bits_per_dim`"


@dataclass(frozen=True)
class FinishedStore:
    """A finished experiment: where plain `mlflow ui` shows it, and what is to be seen."""

    folder: Path
    name: str
    experiment: Experiment
    chains: dict[str, dict[str, Any]]
    """The metrics.json of every chain."""
    records: dict[str, dict[str, Any]]
    """What `spn record` wrote of every chain, with the addresses that the workflow prints."""

    @property
    def stages(self) -> dict[str, float]:
        """The bits/dim of every stage."""
        return {
            name: stage["bits_per_dim"] for chain in self.chains.values() for name, stage in chain["stages"].items()
        }


@pytest.fixture(scope="module")
def finished_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FinishedStore]:
    """The experiment that `dvc repro` made in the finished workspace."""
    folder = finished(tmp_path_factory.getbasetemp())[0].folder
    chains = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("results/chains/*/metrics.json")}
    records = {path.stem: json.loads(path.read_text()) for path in folder.glob("mlflow/chains/*.json")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # the address of the store is relative
        experiment = load_experiment(Path("mlflow/experiment.json"))
        yield FinishedStore(folder, tiny_params()["data"]["name"], experiment, chains, records)


@pytest.fixture(scope="module")
def address(finished_store: FinishedStore) -> Iterator[str]:
    log = finished_store.folder.with_name("mlflow-ui.log")  # beside the folder, which stays as it is
    with MlflowServer(finished_store.folder, log, "ui") as server:
        yield server.address


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory, finished_store: FinishedStore, address: str) -> Iterator[Person]:
    """A new visitor who follows the link that is printed at the end of the workflow."""
    with chromium(tmp_path_factory.mktemp("profile"), SCREENSHOTS) as person:
        person.go(chains_page(finished_store, address))
        person.click("//*[text()='MLflow Assistant']/following::button[@aria-label='Close']")
        yield person


def served(page: str, address: str) -> str:
    """Return a printed address at the port where the test serves the pages."""
    assert page.startswith("http://127.0.0.1:5000/#")
    return page.replace("http://127.0.0.1:5000", address)


def chains_page(store: FinishedStore, address: str) -> str:
    return served(next(iter(store.records.values()))["experiment_page"], address)


def link(text: str) -> str:
    return f"//a[normalize-space()='{text}']"


def tab(text: str) -> str:
    return f"//button[@role='tab'][normalize-space()='{text}']"


def see_runs(person: Person, expected: list[str]) -> None:
    person.wait(f"runs {expected}", lambda _: sorted(person.column(RUN_NAME)) == sorted(expected))


def see_metric(person: Person, name: str) -> float:
    return float(person.see(f"//*[@role='row'][.{link(name)}]").text.split()[1])


def test_the_pages_are_served_to_this_machine_alone(address: str) -> None:
    assert listening(address) == {"127.0.0.1"}


def test_the_printed_link_opens_on_the_runs_of_the_chains(person: Person, finished_store: FinishedStore) -> None:
    see_runs(person, list(finished_store.chains))
    person.keep("0_chains")
    printed = (finished_store.folder / "logs/reproduce.log").read_text()
    assert all(record[key] in printed for record in finished_store.records.values() for key in ("page", "ui_command"))


def test_the_experiment_and_all_its_runs_are_found(person: Person, finished_store: FinishedStore, address: str) -> None:
    person.go(address)
    person.click("//*[text()='Model training']")  # MLflow starts on its other side, for language models
    person.click(link("Experiments"))
    person.see(link(finished_store.name))
    person.keep("1_experiments")
    person.click(link(finished_store.name))
    see_runs(person, [*finished_store.chains, *finished_store.stages])
    person.keep("2_runs")


@pytest.mark.parametrize("kind", ["chain", "stage"])
def test_a_view_compares_bits_per_dim(person: Person, finished_store: FinishedStore, address: str, kind: str) -> None:
    chains = {chain: metrics["bits_per_dim"] for chain, metrics in finished_store.chains.items()}
    expected = chains if kind == "chain" else finished_store.stages
    person.go(f"{address}/#/experiments/{finished_store.experiment.id}/runs?workflowType=machine_learning")
    person.click("//button[normalize-space()='Views']")
    person.click(f"//*[text()='{kind}s by bits/dim']")
    person.see("//*[@role='columnheader'][normalize-space()='bits_per_dim']")
    see_runs(person, list(expected))
    person.wait("bits/dim", lambda _: all(person.column(BITS_PER_DIM)))
    person.keep(f"3_{kind}s_by_bits_per_dim")
    shown = dict(zip(person.column(RUN_NAME), map(float, person.column(BITS_PER_DIM)), strict=True))
    assert shown == pytest.approx(expected)
    assert list(shown) == sorted(expected, key=lambda name: expected[name])


def test_a_chain_shows_its_bits_per_dim_and_its_samples(
    person: Person, finished_store: FinishedStore, address: str
) -> None:
    chain = max(finished_store.chains, key=lambda name: len(finished_store.chains[name]["stages"]))
    metrics, picture = finished_store.chains[chain], "samples.png"
    person.go(served(finished_store.records[chain]["page"], address))
    assert see_metric(person, "bits_per_dim") == pytest.approx(metrics["bits_per_dim"])
    for name, stage in metrics["stages"].items():
        assert see_metric(person, f"bits_per_dim.{name}") == pytest.approx(stage["bits_per_dim"])
    person.see("//p[contains(., 'exact, over the 10 test images')]")
    person.click("//button[normalize-space()='Show more']")
    person.see(f"//code[normalize-space()='snakemake --cores all mlflow/chains/{chain}.json']")
    person.see(f"//*[not(*)][starts-with(normalize-space(), '{finished_store.name} (')]")
    person.keep("4_chain")
    person.click(tab("Artifacts"))
    person.click(f"//*[@data-testid='artifact-tree-node'][normalize-space()='{picture}']")
    image = person.see(f"//img[@alt='{picture}']")
    person.wait("the pixels", lambda _: int(str(image.get_property("naturalWidth"))) > 0)
    person.keep("5_samples")


def test_a_chain_leads_to_its_stages_and_their_curves(
    person: Person, finished_store: FinishedStore, address: str
) -> None:
    chain = next(iter(finished_store.chains))
    stage, figures = next(iter(finished_store.chains[chain]["stages"].items()))
    person.go(served(finished_store.records[chain]["page"], address))
    person.click("//button[normalize-space()='Show more']")
    person.follow(f"//table{link(stage)}")
    person.see(link("train_bits_per_dim_estimate"))
    assert see_metric(person, "bits_per_dim") == pytest.approx(figures["bits_per_dim"])
    person.keep("6_stage")
    person.click(tab("Model metrics"))
    person.write("//input[@placeholder='Search metric charts']", "bits_per_dim")
    person.see("//*[normalize-space(text())='train_bits_per_dim_estimate']")
    person.see("//*[contains(@class, 'js-plotly-plot')]")
    person.keep("7_curves")


def test_chains_are_compared_by_parameters_and_side_by_side_samples(
    person: Person, finished_store: FinishedStore, address: str
) -> None:
    runs = {chain: record["run_id"] for chain, record in finished_store.records.items()}
    query = urlencode(
        {"runs": json.dumps(list(runs.values())), "experiments": json.dumps([finished_store.experiment.id])}
    )
    person.go(f"{address}/#/compare-runs?{query}&workflowType=machine_learning")
    key = "stages.low.training.steps"
    params = finished_store.experiment.client.get_run(runs["depth"]).data.params
    assert params[key] in person.see(f"//*[@role='row' or self::tr][.//*[normalize-space()='{key}']]").text.split()
    person.click("//*[normalize-space(text())='samples.png']")

    def pixels(_: object) -> bool:
        shown = person.driver.find_elements("xpath", "//img[@alt='samples.png']")
        return [int(str(image.get_property("naturalWidth"))) > 0 for image in shown] == [True] * len(runs)

    person.wait("the samples of each", pixels)
    person.keep("8_compared")


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_of_the_report_fits_a_window_and_its_links_lead_to_chains(
    person: Person, finished_store: FinishedStore, width: int
) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    person.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        person.go(f"file://{finished_store.folder}/results/plots/gallery.html")
        person.click("//nav/a[text()='Chain depth']")
        person.keep(f"gallery_{width}")
        heading = person.see("//h2[text()='Chain depth']")
        shown = person.driver.execute_script("return arguments[0].getBoundingClientRect().top", heading)
        assert 0 <= shown < 900
        assert person.driver.execute_script("return document.documentElement.scrollWidth") <= width
        broken = "return [...document.images].filter(each => !(each.complete && each.naturalWidth)).length"
        assert person.driver.execute_script(broken) == 0
    finally:
        person.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
