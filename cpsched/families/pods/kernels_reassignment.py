"""The annealing kernel of machine reassignment: shifts and swaps of processes."""

from __future__ import annotations

from typing import Any

import numpy as np

from cpsched.core.jit import kernel


@kernel
def machine_cost(m: Any, use: Any, capacity: Any, safety: Any, weights: Any, balances: Any) -> Any:
    """Load and balance cost of a machine."""
    total = 0
    for r in range(use.shape[1]):
        over = use[m, r] - safety[m, r]
        if over > 0:
            total += weights[r] * over
    for b in range(balances.shape[0]):
        first = capacity[m, balances[b, 0]] - use[m, balances[b, 0]]
        second = capacity[m, balances[b, 1]] - use[m, balances[b, 1]]
        lack = balances[b, 2] * first - second
        if lack > 0:
            total += balances[b, 3] * lack
    return total


@kernel
def shift(p: Any, target: Any, at: Any, home: Any, service: Any, need: Any, transient: Any,
          location: Any, near: Any, use: Any, held: Any, on: Any, at_location: Any, at_near: Any,
          moved: Any) -> Any:  # fmt: skip
    """Put a process on another machine and keep every count up to date."""
    old = at[p]
    s = service[p]
    for r in range(use.shape[1]):
        use[old, r] -= need[p, r]
        use[target, r] += need[p, r]
        if transient[r]:
            if old == home[p]:
                held[old, r] += need[p, r]
            if target == home[p]:
                held[target, r] -= need[p, r]
    on[s, old] -= 1
    on[s, target] += 1
    at_location[s, location[old]] -= 1
    at_location[s, location[target]] += 1
    at_near[s, near[old]] -= 1
    at_near[s, near[target]] += 1
    if old == home[p]:
        moved[s] += 1
    if target == home[p]:
        moved[s] -= 1
    at[p] = target


@kernel
def allowed(s: Any, left: Any, entered: Any, capacity: Any, use: Any, held: Any, on: Any,
            location: Any, near: Any, at_location: Any, at_near: Any, minimum: Any, first: Any,
            needs: Any, first_of: Any, needed_by: Any) -> Any:  # fmt: skip
    """Whether the rules hold for a service that just left one machine for another."""
    for r in range(use.shape[1]):
        if use[entered, r] + held[entered, r] > capacity[entered, r]:
            return False
        if use[left, r] + held[left, r] > capacity[left, r]:
            return False
    if on[s, entered] > 1:
        return False
    if location[left] != location[entered]:
        spread = 0
        for k in range(at_location.shape[1]):
            if at_location[s, k] > 0:
                spread += 1
        if spread < minimum[s]:
            return False
    n = near[entered]
    for k in range(first[s], first[s + 1]):
        if at_near[needs[k], n] == 0:
            return False
    n = near[left]
    if at_near[s, n] == 0:
        for k in range(first_of[s], first_of[s + 1]):
            if at_near[needed_by[k], n] > 0:
                return False
    return True


@kernel
def most(values: Any) -> Any:
    """The largest entry."""
    out = 0
    for k in range(values.shape[0]):
        if values[k] > out:
            out = values[k]
    return out


@kernel
def anneal(at: Any, best: Any, home: Any, service: Any, need: Any, transient: Any, location: Any,
           near: Any, capacity: Any, safety: Any, weights: Any, balances: Any, minimum: Any,
           first: Any, needs: Any, first_of: Any, needed_by: Any, process_cost: Any,
           machine_move: Any, service_weight: Any, use: Any, held: Any, on: Any, at_location: Any,
           at_near: Any, moved: Any, cost: Any, best_cost: Any, steps: Any, hot: Any, cold: Any,
           seed: Any) -> Any:  # fmt: skip
    """Simulated annealing; changes the state in place and copies the best into ``best``.

    Returns the cost of the state, the best cost, and the state of the random numbers.
    """
    processes = at.shape[0]
    machines = capacity.shape[0]
    state = np.uint64(seed)
    highest = most(moved)
    for step in range(steps):
        temperature = hot * (cold / hot) ** (step / steps)
        state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
        p = np.int64((state >> np.uint64(33)) % np.uint64(processes))
        state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
        draw = state >> np.uint64(33)
        q = np.int64(-1)
        if draw & np.uint64(1):
            target = np.int64((draw >> np.uint64(1)) % np.uint64(machines))
        else:
            q = np.int64((draw >> np.uint64(1)) % np.uint64(processes))
            target = at[q]
        old = at[p]
        if target == old:
            continue
        if q < 0 and on[service[p], target] > 0:
            continue
        before = machine_cost(old, use, capacity, safety, weights, balances)
        before += machine_cost(target, use, capacity, safety, weights, balances)
        before += machine_move[home[p], old] + service_weight * highest
        if old != home[p]:
            before += process_cost[p]
        if q >= 0:
            before += machine_move[home[q], target]
            if target != home[q]:
                before += process_cost[q]
        shift(p, target, at, home, service, need, transient, location, near, use, held, on,
              at_location, at_near, moved)  # fmt: skip
        if q >= 0:
            shift(q, old, at, home, service, need, transient, location, near, use, held, on,
                  at_location, at_near, moved)  # fmt: skip
        fine = allowed(service[p], old, target, capacity, use, held, on, location, near,
                       at_location, at_near, minimum, first, needs, first_of,
                       needed_by)  # fmt: skip
        if fine and q >= 0:
            fine = allowed(service[q], target, old, capacity, use, held, on, location, near,
                           at_location, at_near, minimum, first, needs, first_of,
                           needed_by)  # fmt: skip
        accept = False
        change = np.int64(0)
        if fine:
            now = most(moved) if service_weight > 0 else np.int64(0)
            after = machine_cost(old, use, capacity, safety, weights, balances)
            after += machine_cost(target, use, capacity, safety, weights, balances)
            after += machine_move[home[p], target] + service_weight * now
            if target != home[p]:
                after += process_cost[p]
            if q >= 0:
                after += machine_move[home[q], old]
                if old != home[q]:
                    after += process_cost[q]
            change = after - before
            state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
            uniform = (state >> np.uint64(11)) / 9007199254740992.0
            accept = change <= 0 or uniform < np.exp(-change / temperature)
            if accept:
                highest = now
        if accept:
            cost += change
            if cost < best_cost:
                best_cost = cost
                best[:] = at
        else:
            if q >= 0:
                shift(q, target, at, home, service, need, transient, location, near, use, held,
                      on, at_location, at_near, moved)  # fmt: skip
            shift(p, old, at, home, service, need, transient, location, near, use, held, on,
                  at_location, at_near, moved)  # fmt: skip
    return cost, best_cost, state


def warm_up() -> None:
    """Compile the kernels for the types used in production."""
    from cpsched.families.pods.reassign import State
    from cpsched.families.pods.reassignment_problem import Balance, Reassignment

    data = Reassignment(
        transient=(True,),
        load_weights=(1,),
        locations=(0, 0),
        neighbourhoods=(0, 0),
        capacities=((9,), (9,)),
        safety=((1,), (1,)),
        move_costs=((0, 1), (1, 0)),
        services=(0, 1),
        spread_minimum=(0, 0),
        dependencies=((), ()),
        requirements=((1,), (1,)),
        process_move_costs=(1, 1),
        balances=(Balance(first=0, second=0, target=1, weight=1),),
        initial=(0, 0),
    )
    State(data).anneal(4, 10.0, 1.0)
