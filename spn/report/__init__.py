"""Tables, figures and pictures of a finished experiment."""

from spn.report.comparison import Comparison, comparable
from spn.report.pictures import save_grid
from spn.report.published import Published
from spn.report.summary import report
from spn.report.tables import statement, text_table

__all__ = ["Comparison", "Published", "comparable", "report", "save_grid", "statement", "text_table"]
