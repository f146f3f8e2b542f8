"""Jobs of the tests, in a module of their own because worker processes import them by name."""

import os
import signal
import time
from pathlib import Path

from jobflow import Flow, JobConfig, OnMissing, Response, job


@job
def add(a, b):
    return a + b


@job
def recorded(value, log, seconds=0.0):
    """Leave a mark per execution, as a costly calculation would leave a bill."""
    with Path(log).open("a") as file:
        file.write(f"{value}\n")
    time.sleep(seconds)
    return value


@job
def fail(message):
    raise RuntimeError(message)


@job(config=JobConfig(on_missing_references=OnMissing.NONE))
def count_present(values):
    return sum(value is not None for value in values)


@job
def fibonacci(smaller, larger, limit):
    """Replaces itself until the limit."""
    total = smaller + larger
    if total > limit:
        return total
    return Response(output=total, replace=fibonacci(larger, total, limit))


@job
def fan_out(numbers):
    """Replaced by a flow with an output."""
    jobs = [add(number, 1) for number in numbers]
    return Response(replace=Flow(jobs, output=[each.output for each in jobs]))


@job
def dynamic_flow_list(numbers):
    return [add(number, 1) for number in numbers]


@job
def detour_to(value, log):
    return Response(output=value, detour=recorded("detour", log, 0.5))


@job
def add_work(value, log, seconds=0.0):
    return Response(output=value, addition=recorded("addition", log, seconds))


@job
def stop(kind):
    return Response(output=kind, **{kind: True})


@job
def store_aside(value):
    return Response(output=value, stored_data={"aside": value})


@job
def die_once(flag):
    """Kills its own worker the first time."""
    if not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


@job
def die_always(log):
    with Path(log).open("a") as file:
        file.write("died\n")
    os.kill(os.getpid(), signal.SIGKILL)


@job
def surroundings():
    print("said by the job")
    threads = os.environ["OMP_NUM_THREADS"]
    return {"directory": str(Path.cwd()), "root": os.environ["FIELDLOOP_ROOT"], "threads": threads, "pid": os.getpid()}


@job(data="big")
def with_blob(n):
    return {"big": list(range(n)), "small": n}


@job
def replace_by_keyed(log):
    from fieldloop.workflows.keys import content_job, content_key

    return Response(replace=content_job(recorded("inner", log), content_key("inner"), "work/inner"))
