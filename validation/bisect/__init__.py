"""Where a file goes wrong: its values held against torch's, operator by operator."""

from mobileseg.validation.bisect.candidates import Candidate, Candidates
from mobileseg.validation.bisect.follow import Comparison, Match
from mobileseg.validation.bisect.network import Network
from mobileseg.validation.bisect.search import Fault, Located, locate

__all__ = ["Candidate", "Candidates", "Comparison", "Fault", "Located", "Match", "Network", "locate"]
