"""Replanning placements: GPUs and items that come, go and change."""

from __future__ import annotations

import math
from typing import Any

from cpsched.errors import ProblemError
from cpsched.families.serving.problem import (
    Gpu,
    Item,
    ItemPlacement,
    ServingProblem,
    ServingSchedule,
)
from cpsched.problem import LARGEST
from cpsched.replan import Event, Revision, foreign, refusal


def whole(value: float, place: str) -> int:
    if value != math.floor(value) or not 0 <= value <= LARGEST:
        raise ProblemError(
            "rounds and units are whole numbers, zero or more",
            place=place,
            value=value,
            remedy="Round it.",
        )
    return int(value)


class PlacementRevision:
    """Experts, models or adapters on GPUs while events are applied."""

    def __init__(self, problem: ServingProblem, schedule: ServingSchedule) -> None:
        self.base = problem
        self.items = {i.id: i for i in problem.items}
        self.gpus = {g.name: g for g in problem.gpus}
        for place in schedule.placements:
            if place.item not in self.items:
                raise foreign("schedule.placements", place.item)
            for gpu in place.gpus:
                if gpu not in self.gpus:
                    raise foreign("schedule.placements", gpu)
            item = self.items[place.item]
            self.items[item.id] = item.model_copy(update={"current": place.gpus})

    def _gpu(self, event: Event) -> Gpu:
        if event.id not in self.gpus:
            raise refusal(event, "there is no GPU of that name")
        return self.gpus[event.id]

    def _item(self, event: Event) -> Item:
        if event.id not in self.items:
            raise refusal(event, "there is no item of that id")
        return self.items[event.id]

    def _resource_down(self, event: Event) -> None:
        del self.gpus[self._gpu(event).name]

    def _capacity(self, event: Event) -> None:
        gpu = self._gpu(event)
        if event.capacity is None:
            raise refusal(event, "it needs the new 'capacity'")
        new = whole(event.capacity, "events.capacity")
        self.gpus[gpu.name] = gpu.model_copy(update={"memory": new})

    def _insert(self, event: Event) -> None:
        if event.item is None:
            raise refusal(event, "it needs the new item or GPU as 'item'")
        if event.id in self.items or event.id in self.gpus:
            raise refusal(event, "there is one of that name already")
        if "load" in event.item:
            self.items[event.id] = Item.parse(event.item | {"id": event.id})
        else:
            self.gpus[event.id] = Gpu.parse(event.item | {"name": event.id})

    def _cancel(self, event: Event) -> None:
        del self.items[self._item(event).id]

    def _priority(self, event: Event) -> None:
        item = self._item(event)
        if event.weight is None or event.weight < 0:
            raise refusal(event, "it needs the new load as 'weight'")
        self.items[item.id] = item.model_copy(update={"load": float(event.weight)})

    def revision(self) -> Revision:
        """The revised placement question."""
        items = [
            i.model_copy(update={"current": tuple(g for g in i.current if g in self.gpus)})
            for i in self.items.values()
        ]
        fields: dict[str, Any] = {f: getattr(self.base, f) for f in type(self.base).model_fields}
        update: dict[str, Any] = {"items": items, "gpus": tuple(self.gpus.values())}
        slots = [g.slots for g in self.base.gpus]
        if None not in slots and self.base.replicas == sum(s or 0 for s in slots):
            # Slots are filled exactly: the replicas follow the GPUs that are left.
            update["replicas"] = sum(g.slots or 0 for g in self.gpus.values())
        placements = tuple(ItemPlacement(item=i.id, gpus=i.current) for i in items if i.current)
        return Revision(
            ServingProblem.parse(fields | update), ServingSchedule(placements=placements)
        )
