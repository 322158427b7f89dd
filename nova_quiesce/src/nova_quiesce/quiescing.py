# SPDX-License-Identifier: Apache-2.0
"""Quiesce, unquiesce and the automatic thaw: the order of checks, records and calls."""

from __future__ import annotations

from typing import Any

import oslo_messaging
from nova import exception, objects, servicegroup
from nova.compute import api as compute_api
from nova.compute import vm_states
from nova.conf import CONF
from nova.i18n import _
from oslo_log import log as logging

from nova_quiesce import record
from nova_quiesce.guest import Guest, has_no_agent, may_be_frozen_after, reason
from nova_quiesce.record import LOST, QUIESCED, QUIESCING, UNQUIESCING, Record
from nova_quiesce.watch import Watch

LOG = logging.getLogger(__name__)

# How much longer than the wait for nova-compute's answer a freeze or thaw may take before the
# process that began it is taken for dead.
MARGIN_SECONDS = 15


class AlreadyQuiesced(exception.Invalid):
    msg_fmt = _(
        "Instance %(server_id)s is already %(state)s, since %(since)s and until %(expires_at)s "
        "at the latest"
    )
    code = 409


class Overtaken(exception.Invalid):
    msg_fmt = _("Another request changed instance %(server_id)s at the same moment. Try again")
    code = 409


class PerhapsFrozen(exception.Invalid):
    msg_fmt = _(
        "%(reason)s. The guest of instance %(server_id)s may nevertheless be frozen and is being "
        "unquiesced; if its agent stays silent, Nova stops trying at %(given_up_at)s"
    )
    code = 409


class GivenUp(exception.Invalid):
    msg_fmt = _(
        "The guest of instance %(server_id)s may be frozen since %(since)s, and could not be "
        "unquiesced until %(given_up_at)s: %(reason)s. "
        "Unquiesce the instance when its guest agent answers again, or hard reboot it"
    )
    code = 409


class NoAnswer(exception.NovaException):
    msg_fmt = _(
        "The compute service did not confirm in time that instance %(server_id)s was "
        "%(action)sd. %(consequence)s"
    )
    code = 504


class Quiescing:
    """Quiesces and unquiesces servers.

    Every process changes the server's record before it acts.
    """

    def __init__(self) -> None:
        self._guest = Guest()
        self.watch = Watch(self.thaw_due)
        # the name that Nova's check_instance_host looks for
        self.servicegroup_api = servicegroup.API()

    @compute_api.check_instance_lock
    def quiesce(self, context: Any, instance: Any, timeout: int) -> None:
        """Freeze the guest's file systems, for `timeout` seconds at most.

        :param context: a request context targeted at the instance's cell
        :raises AlreadyQuiesced: it is; its timeout stays unchanged
        :raises NoAnswer: the guest may have been frozen; it is due to be thawed
        :raises nova.exception.NovaException, NotImplementedError: the state does not allow it,
            or nova-compute refused
        """
        self._refuse_if_quiesced(context, instance)
        self._check_idle_and_up(context, instance)
        wait = min(timeout, CONF.rpc_response_timeout)
        begun = Record.new(QUIESCING, timeout, wait + MARGIN_SECONDS)
        # Recorded before the call: whatever happens in it, the server will be thawed.
        if not record.replace(context, instance.uuid, None, begun):
            instance = _load(context, instance.uuid)
            self._refuse_if_quiesced(context, instance)
            self._check_idle_and_up(context, instance)
            raise Overtaken(server_id=instance.uuid)
        self._freeze(context, instance, begun, wait)
        frozen = begun.become(QUIESCED, free_at=begun.since, given_up_at=None)
        if not record.replace(context, instance.uuid, begun, frozen):
            # An admin has reset the state, or we were taken for dead.
            self.watch.keep(instance.uuid, begun.lost())
            raise Overtaken(server_id=instance.uuid)
        self.watch.expect(instance.uuid, frozen)
        LOG.info("Quiesced until %s at the latest.", frozen.expires_at, instance=instance)

    @compute_api.check_instance_lock
    def unquiesce(self, context: Any, instance: Any) -> None:
        """Thaw the guest's file systems; return when they are thawed. A server that is not quiesced
        stays so.

        :param context: a request context targeted at the instance's cell
        :raises NoAnswer: the guest may still be frozen; if it was quiesced, it is due to be thawed
        :raises GivenUp: its agent does not answer, and the guest may be frozen; the record is
            removed
        :raises nova.exception.NovaException, NotImplementedError: the state does not allow it,
            or nova-compute refused
        """
        found = record.of(context, instance.uuid)
        if found and found.is_busy:
            raise exception.InstanceInvalidState(
                attr="task_state",
                instance_uuid=instance.uuid,
                state=found.state,
                method="unquiesce",
            )
        if found:
            self._check_up(context, instance)
        else:
            self._check_idle_and_up(context, instance)
        try:
            thawed = self._thaw(context, instance, found)
        except oslo_messaging.MessagingException as error:
            LOG.exception("No answer to the unquiesce.", instance=instance)
            raise NoAnswer(
                server_id=instance.uuid,
                action="unquiesce",
                consequence="It may still be quiesced: try again.",
            ) from error
        if not thawed:
            raise Overtaken(server_id=instance.uuid)
        LOG.info("Unquiesced.", instance=instance)

    def thaw_due(self, context: Any, server_id: str, found: Record) -> None:
        """Thaw a server that is due, as its record says; return when that is done or given up, or
        when another process does it.

        :param context: an admin's context targeted at the instance's cell
        :raises Exception: it could not be thawed and is to be tried again; if it has a record, that
        says when
        """
        instance = _load(context, server_id)
        outcome = None
        try:
            if (self._thaw_lost if found.state == LOST else self._thaw)(context, instance, found):
                outcome = (
                    f"Thawed: it was quiesced at {found.since}, until {found.expires_at}, and "
                    "not unquiesced."
                )
        except GivenUp as error:
            outcome = error.format_message()
        if outcome:
            LOG.warning(outcome, instance=instance)

    def thaw_after_reset(self, context: Any, instance: Any) -> None:
        """Have the watch of this process thaw a server whose state an admin has reset while it was
        quiesced.
        """
        for lost in record.forget(context, instance.uuid):
            self.watch.keep(instance.uuid, lost)

    def _freeze(self, context: Any, instance: Any, begun: Record, wait: int) -> None:
        try:
            self._guest.freeze(context, instance, wait)
        except Exception as error:
            if not may_be_frozen_after(error):
                record.replace(context, instance.uuid, begun, None)
                raise
            LOG.warning(
                "The quiesce failed and may have frozen the guest all the same, unquiescing: %s",
                reason(error),
                instance=instance,
            )
            due = begun.become(UNQUIESCING, free_at=begun.since)
            if record.replace(context, instance.uuid, begun, due):
                self.watch.expect(instance.uuid, due)
            else:
                self.watch.keep(instance.uuid, begun.lost())
            if isinstance(error, oslo_messaging.MessagingException):
                raise NoAnswer(
                    server_id=instance.uuid, action="quiesce", consequence="It is being unquiesced."
                ) from error
            if isinstance(error, exception.NovaException):
                raise PerhapsFrozen(
                    reason=reason(error), server_id=instance.uuid, given_up_at=begun.given_up_at
                ) from error
            raise

    def _thaw(self, context: Any, instance: Any, found: Record | None) -> bool:
        """Thaw, with the record saying so meanwhile.

        False when another process has changed the record first: then nothing was done.
        """
        free_in = CONF.rpc_response_timeout + MARGIN_SECONDS
        claim = (
            found.become(UNQUIESCING, free_at=record.in_seconds(free_in))
            if found
            else Record.new(UNQUIESCING, free_in, free_in)
        )
        if not record.replace(context, instance.uuid, found, claim):
            return False
        try:
            self._thaw_if_running(context, instance, found)
        except BaseException as error:
            again = found and _after_failed_thaw(found, error)
            record.replace(context, instance.uuid, claim, again)
            if again:
                self.watch.expect(instance.uuid, again)
            elif found:
                raise _given_up(instance, found, error) from error
            raise
        record.replace(context, instance.uuid, claim, None)
        return True

    def _thaw_lost(self, context: Any, instance: Any, lost: Record) -> bool:
        """Thaw a server that has lost its record, without a new one: its state was reset, so it
        must stay usable.
        """
        try:
            self._thaw_if_running(context, instance, lost)
        except Exception as error:
            if lost.is_given_up:
                raise _given_up(instance, lost, error) from error
            raise
        requiesced = record.of(context, instance.uuid)
        if requiesced:
            # Quiesced by another request meanwhile, and thawed by us: it must not pass for frozen.
            self._thaw(context, instance, requiesced)
        return True

    def _thaw_if_running(self, context: Any, instance: Any, found: Record | None) -> None:
        try:
            self._check_up(context, instance)
            self._guest.thaw(context, instance)
        except exception.ServiceUnavailable:
            raise
        except (exception.NovaException, NotImplementedError) as error:
            if found and found.given_up_at and has_no_agent(error):
                LOG.warning(
                    "It has no guest agent, so its file systems are not frozen.", instance=instance
                )
            elif found and not self._guest.is_running(context, instance):
                LOG.warning(
                    "It does not run any more, so its file systems are not frozen either.",
                    instance=instance,
                )
            else:
                raise

    def _refuse_if_quiesced(self, context: Any, instance: Any) -> None:
        found = record.of(context, instance.uuid)
        if found and found.state == UNQUIESCING:
            raise exception.InstanceInvalidState(
                attr="task_state", instance_uuid=instance.uuid, state=found.state, method="quiesce"
            )
        if found:
            raise AlreadyQuiesced(
                server_id=instance.uuid,
                state=found.state,
                since=found.since,
                expires_at=found.expires_at,
            )

    @compute_api.check_instance_state(vm_state=[vm_states.ACTIVE])
    @compute_api.check_instance_host(check_is_up=True)
    def _check_idle_and_up(self, context: Any, instance: Any) -> None:
        """Raise what Nova raises for a server that is not ACTIVE, has a task, or whose host is
        down.
        """

    @compute_api.check_instance_host(check_is_up=True)
    def _check_up(self, context: Any, instance: Any) -> None:
        """Raise what Nova raises for a server whose host is down."""


def _load(context: Any, server_id: str) -> Any:
    return objects.Instance.get_by_uuid(
        context, server_id, expected_attrs=["services", "system_metadata"]
    )


def _after_failed_thaw(found: Record, error: BaseException) -> Record | None:
    """Return the record of a server that could not be thawed, which says when to try again; None
    when that is given up.
    """
    again = record.in_seconds(record.RETRY_SECONDS)
    if isinstance(error, exception.InstanceQuiesceFailed):
        return None if found.is_given_up else found.become(UNQUIESCING, free_at=again)
    # The agent was not asked, or libvirt still waits for its answer to the freeze: that it is
    # silent is not known yet.
    given_up_at = found.given_up_at and max(
        found.given_up_at, record.in_seconds(record.GIVE_UP_SECONDS)
    )
    untouched = found.state == QUIESCED and isinstance(error, exception.ServiceUnavailable)
    return found.become(
        QUIESCED if untouched else UNQUIESCING, free_at=again, given_up_at=given_up_at
    )


def _given_up(instance: Any, found: Record, error: BaseException) -> GivenUp:
    return GivenUp(
        server_id=instance.uuid,
        since=found.since,
        given_up_at=found.given_up_at,
        reason=reason(error),
    )
