"""What an evaluation says: results, reports, points of several solvers, and pages of them."""
