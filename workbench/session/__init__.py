"""The state behind a notebook: one method per user action, no widget."""

from workbench.session.session import METRICS as METRICS
from workbench.session.session import Event as Event
from workbench.session.session import Scope as Scope
from workbench.session.session import Session as Session
from workbench.session.session import default_device as default_device
from workbench.session.session import open_session as open_session
