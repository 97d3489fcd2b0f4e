"""The doctor: finds out by trying which controls an endpoint really keeps, in a few short calls.

Servers answer 200 and ignore what they do not know, so a table of what they should do proves nothing. Every
finding here is what one endpoint did with one model when it was asked.
"""

from budgetctl.doctor.checkup import Checkup
from budgetctl.doctor.endpoint import Endpoint, Reply
from budgetctl.doctor.findings import Diagnosis, Finding
from budgetctl.doctor.row import capability_row

__all__ = ["Checkup", "Diagnosis", "Endpoint", "Finding", "Reply", "capability_row"]
