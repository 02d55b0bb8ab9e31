"""What people see in a terminal: tables, the page of one run, its story, a plan, and the lines printed while waiting.

Everything here takes values and returns something that `rich` can print; nothing reads the database.
"""

from backfilld.monitoring.display.backups import backup, backups
from backfilld.monitoring.display.explanation import explanation, remedy
from backfilld.monitoring.display.lines import LINE_EVERY_SECONDS, Watch
from backfilld.monitoring.display.overview import WIDE, overview
from backfilld.monitoring.display.pace import changes, pace
from backfilld.monitoring.display.page import EVENTS_ON_A_PAGE, block, lane_table, page, remarks
from backfilld.monitoring.display.plan import plan, refusals
from backfilld.monitoring.display.quarantine import quarantine
from backfilld.monitoring.display.story import day_of, sentence, story, story_line
from backfilld.monitoring.display.words import STYLES, cell, left, line, phase, rate, rows, share, standing
from backfilld.monitoring.words import counted, duration, figure, moment, number, safe, signal_name, signal_value, size

__all__ = [
    "EVENTS_ON_A_PAGE",
    "LINE_EVERY_SECONDS",
    "STYLES",
    "WIDE",
    "Watch",
    "backup",
    "backups",
    "block",
    "cell",
    "changes",
    "counted",
    "day_of",
    "duration",
    "explanation",
    "figure",
    "lane_table",
    "left",
    "line",
    "moment",
    "number",
    "overview",
    "pace",
    "page",
    "phase",
    "plan",
    "quarantine",
    "rate",
    "refusals",
    "remarks",
    "remedy",
    "rows",
    "safe",
    "sentence",
    "share",
    "signal_name",
    "signal_value",
    "size",
    "standing",
    "story",
    "story_line",
]
