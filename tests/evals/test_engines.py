"""The same run on threads and on a Ray cluster of this machine; and a fault on it."""

import pytest
from budgetctl.evals.suites import open_suite

from budgetctl.errors import EvalError

from .run_fake_suite import FakeBackend, live_run


class Failing(FakeBackend):
    def generate(self, questions, budgets, *, seeds):
        if questions[0].id == "3":
            raise EvalError("the endpoint went away")
        return super().generate(questions, budgets, seeds=seeds)


# Ray leaves pipes of its workers to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning:ray")
class TestOnRay:
    @pytest.fixture(scope="class")
    def cluster(self):
        ray = pytest.importorskip("ray")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield ray
        ray.shutdown()

    def test_the_results_are_those_of_a_local_run(self, cluster, tmp_path):
        def run(engine):
            backend = FakeBackend(concurrency=3, batched=False)
            return live_run(tmp_path / engine, backend=backend, samples=2, engine=engine).run()

        assert run("ray") == run("local")

    def test_a_fault_of_an_actor_is_that_of_the_run_and_what_was_finished_is_kept(self, cluster, tmp_path):
        def run(backend):
            return live_run(tmp_path, backend=backend, policies=["full"], engine="ray").run()

        with pytest.raises(EvalError, match="the endpoint went away"):
            run(Failing(batched=False))
        assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 3
        assert len(run(FakeBackend(batched=False))["full"]) == 40

    def test_a_model_in_the_process_has_a_copy_in_every_actor(self, cluster, tmp_path):
        pytest.importorskip("transformers")
        from budgetctl.evals.live import LiveRun

        def run(engine, concurrency):
            suite = open_suite("pocket", limit=8, samples=2, concurrency=concurrency, many_processes=True)
            made = LiveRun(
                suite=suite,
                policies=["full", "cap:32"],
                out=tmp_path / engine,
                samples=2,
                batch_size=4,
                engine=engine,
                classifier=None,
            )
            runs = made.run()
            return {
                name: [(r.key, r.answer, r.reasoning_tokens) for r in rows] for name, rows in runs.items()
            }

        assert run("ray", 2) == run("local", 1)
