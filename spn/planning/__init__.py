"""Forecasts what a configuration costs: parameters, FLOPs, memory, sampling steps and times."""

from spn.planning.forecast import StageForecast, forecast
from spn.planning.machine import Machine, stated_gpus, this_machine
from spn.planning.probe import Speeds, measure_speeds
from spn.planning.table import plan_json, plan_table, warnings

__all__ = [
    "Machine",
    "Speeds",
    "StageForecast",
    "forecast",
    "measure_speeds",
    "plan_json",
    "plan_table",
    "stated_gpus",
    "this_machine",
    "warnings",
]
