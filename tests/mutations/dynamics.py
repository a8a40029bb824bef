"""Faults for the solvers of differential equations."""

from tests.mutations import Mutation

SOLVERS = "genmodels/dynamics/solvers.py"
TESTS = "tests/dynamics/test_solvers.py::"

MUTATIONS = [
    Mutation(
        SOLVERS,
        '"heun": Tableau(((1.0,),), (1 / 2, 1 / 2), (0.0, 1.0), 2)',
        '"heun": Tableau(((1.0,),), (1 / 3, 2 / 3), (0.0, 1.0), 2)',
        TESTS + "test_order[heun]",
        "weights of Heun's method",
    ),
    Mutation(
        SOLVERS,
        "k.append(f(t + c * h, combine(y, h, row, k)))",
        "k.append(f(t, combine(y, h, row, k)))",
        TESTS + "test_order[midpoint]",
        "inner slopes at the start's time",
    ),
    Mutation(
        SOLVERS,
        "(9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656)",
        "(9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, 5103 / 18656)",
        TESTS + "test_tableau_satisfies_the_order_conditions[dopri5]",
        "a sign in Dormand and Prince's table",
    ),
    Mutation(
        SOLVERS,
        "-17253 / 339200, 22 / 525",
        "17253 / 339200, 22 / 525",
        TESTS + "test_dopri5_keeps_its_tolerance[0.001]",
        "a sign in the error estimate",
    ),
    Mutation(
        SOLVERS,
        "            if error <= 1:\n",
        "            if True:\n",
        TESTS + "test_stiff_interval_and_start_at_rest",
        "steps never rejected",
    ),
    Mutation(
        SOLVERS,
        "            y = torch.add(y, slope, alpha=h * w)\n",
        "            y = torch.add(y, slope, alpha=abs(h) * w)\n",
        TESTS + "test_backward_in_time_undoes_forward[rk4]",
        "steps forward although time runs back",
    ),
    Mutation(
        SOLVERS,
        "now, y, k_1 = (target if lands else now + taken), proposal, k[-1]",
        "now, y, k_1 = (target if lands else now + taken), proposal, k[0]",
        TESTS + "test_dopri5_keeps_its_tolerance[0.001]",
        "a stale first slope",
    ),
]
