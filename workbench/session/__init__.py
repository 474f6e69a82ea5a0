"""The state behind a notebook: one method per user action, no widget."""

from workbench.measure.error_map import METRICS as METRICS
from workbench.session.events import Event as Event
from workbench.session.layers import Scope as Scope
from workbench.session.opening import default_device as default_device
from workbench.session.opening import open_session as open_session
from workbench.session.session import Session as Session
