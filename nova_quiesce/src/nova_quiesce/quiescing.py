# SPDX-License-Identifier: Apache-2.0
"""Quiesce, unquiesce and the thaw that comes by itself: what is checked, recorded and called, in which order."""

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
from nova_quiesce.guest import Guest
from nova_quiesce.record import QUIESCED, QUIESCING, UNQUIESCING, Record
from nova_quiesce.watch import Watch

LOG = logging.getLogger(__name__)

# Between two attempts to thaw a server whose time is over: soon, since it is an outage, but no flood in the log.
RETRY_SECONDS = 5

# How much longer than the wait for nova-compute's answer a freeze or thaw may take before whoever has begun it is taken for dead.
MARGIN_SECONDS = 15


class AlreadyQuiesced(exception.Invalid):
    msg_fmt = _("Instance %(server_id)s is already %(state)s, since %(since)s and until %(expires_at)s at the latest")
    code = 409


class Overtaken(exception.Invalid):
    msg_fmt = _("Another request changed instance %(server_id)s at the same moment; its guest is not frozen by this one")
    code = 409


class NoAnswer(exception.NovaException):
    msg_fmt = _("The compute service did not answer in time whether instance %(server_id)s was %(action)sd. %(consequence)s")
    code = 504


class Quiescing:
    """Quiesces and unquiesces servers. Whoever does so, in whatever process, has changed the server's record first."""

    def __init__(self) -> None:
        self._guest = Guest()
        self.watch = Watch(self.thaw_due)
        self.servicegroup_api = servicegroup.API()  # the name that Nova's check_instance_host looks for

    @compute_api.check_instance_lock
    def quiesce(self, context: Any, instance: Any, timeout: int) -> None:
        """Freeze the guest's file systems, for `timeout` seconds at most.

        :param context: a request context targeted at the instance's cell
        :raises AlreadyQuiesced: it is; its time goes on unchanged
        :raises NoAnswer: the guest may have been frozen; it is due to be thawed
        :raises nova.exception.NovaException, NotImplementedError: the state does not allow it, or nova-compute refused
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
        frozen = begun.become(QUIESCED, free_at=begun.since)
        if not record.replace(context, instance.uuid, begun, frozen):
            # An admin has reset the state, or we were taken for dead.
            self._thaw_in_case(context, instance)
            raise Overtaken(server_id=instance.uuid)
        self.watch.expect(instance.uuid, frozen)
        LOG.info("Quiesced until %s at the latest.", frozen.expires_at, instance=instance)

    @compute_api.check_instance_lock
    def unquiesce(self, context: Any, instance: Any) -> None:
        """Thaw the guest's file systems; return when they are thawed. A server that is not quiesced stays so.

        :param context: a request context targeted at the instance's cell
        :raises NoAnswer: the guest may still be frozen; the thaw that comes by itself remains
        :raises nova.exception.NovaException, NotImplementedError: the state does not allow it, or nova-compute refused
        """
        found = record.of(context, instance.uuid)
        if found and found.is_busy:
            raise exception.InstanceInvalidState(attr="task_state", instance_uuid=instance.uuid, state=found.state, method="unquiesce")
        if found:
            self._check_up(context, instance)
        else:
            self._check_idle_and_up(context, instance)
        try:
            thawed = self._thaw(context, instance, found)
        except oslo_messaging.MessagingException as error:
            LOG.exception("No answer to the unquiesce.", instance=instance)
            raise NoAnswer(server_id=instance.uuid, action="unquiesce", consequence="It may still be quiesced: try again.") from error
        if not thawed:
            raise Overtaken(server_id=instance.uuid)
        LOG.info("Unquiesced.", instance=instance)

    def thaw_due(self, context: Any, server_id: str, found: Record) -> None:
        """Thaw a server whose time is over, as its record says; return when that is done, or when somebody else does it.

        :param context: an admin's context targeted at the instance's cell
        :raises Exception: it could not be thawed; its record says when it is to be tried again
        """
        instance = _load(context, server_id)
        if self._thaw(context, instance, found, retry_in=RETRY_SECONDS):
            LOG.warning("Thawed: nobody had unquiesced it until %s.", found.expires_at, instance=instance)

    def thaw_after_reset(self, context: Any, instance: Any) -> None:
        """Thaw a server whose state an admin has reset while it was quiesced; an error is logged, since the reset is done."""
        if not record.forget(context, instance.uuid):
            return
        try:
            self._check_up(context, instance)
            self._guest.thaw(context, instance)
            LOG.warning("Thawed: its state was reset while it was quiesced.", instance=instance)
        except Exception:
            LOG.exception("Its state was reset while it was quiesced, and it could not be thawed: unquiesce it.", instance=instance)

    def _freeze(self, context: Any, instance: Any, begun: Record, wait: int) -> None:
        try:
            self._guest.freeze(context, instance, wait)
        except (exception.NovaException, NotImplementedError) as error:
            if isinstance(error, exception.InstanceQuiesceFailed):
                self._thaw_in_case(context, instance)
            record.replace(context, instance.uuid, begun, None)
            raise
        except Exception as error:
            LOG.exception("No answer to the quiesce, thawing.", instance=instance)
            now = record.in_seconds(0)
            due = begun.become(QUIESCED, expires_at=now, free_at=now)
            record.replace(context, instance.uuid, begun, due)
            self.watch.expect(instance.uuid, due)
            if not isinstance(error, oslo_messaging.MessagingException):
                raise
            raise NoAnswer(server_id=instance.uuid, action="quiesce", consequence="It is being thawed.") from error

    def _thaw_in_case(self, context: Any, instance: Any) -> None:
        """Thaw a guest that may be frozen: an agent that falls silent may have taken the command. One that always was refuses this, too."""
        try:
            self._guest.thaw(context, instance)
        except Exception as error:
            LOG.warning("Not thawed after a quiesce that failed: %s", error, instance=instance)

    def _thaw(self, context: Any, instance: Any, found: Record | None, retry_in: float = 0) -> bool:
        """Thaw, with the record saying so meanwhile. False when somebody else has changed the record first: then nothing was done."""
        free_in = CONF.rpc_response_timeout + MARGIN_SECONDS
        claim = found.become(UNQUIESCING, free_at=record.in_seconds(free_in)) if found else Record.new(UNQUIESCING, free_in, free_in)
        if not record.replace(context, instance.uuid, found, claim):
            return False
        try:
            self._thaw_if_running(context, instance, found)
        except BaseException:
            still = found and claim.become(QUIESCED, free_at=record.in_seconds(retry_in))
            record.replace(context, instance.uuid, claim, still)
            raise
        record.replace(context, instance.uuid, claim, None)
        return True

    def _thaw_if_running(self, context: Any, instance: Any, found: Record | None) -> None:
        try:
            self._check_up(context, instance)
            self._guest.thaw(context, instance)
        except exception.ServiceUnavailable:
            raise
        except exception.NovaException:
            if found is None or self._guest.is_running(context, instance):
                raise
            LOG.warning("It does not run any more, so its file systems are not frozen either.", instance=instance)

    def _refuse_if_quiesced(self, context: Any, instance: Any) -> None:
        found = record.of(context, instance.uuid)
        if found:
            raise AlreadyQuiesced(server_id=instance.uuid, state=found.state, since=found.since, expires_at=found.expires_at)

    @compute_api.check_instance_state(vm_state=[vm_states.ACTIVE])
    @compute_api.check_instance_host(check_is_up=True)
    def _check_idle_and_up(self, context: Any, instance: Any) -> None:
        """Raise what Nova raises for a server that is not ACTIVE, has a task, or whose host is down."""

    @compute_api.check_instance_host(check_is_up=True)
    def _check_up(self, context: Any, instance: Any) -> None:
        """Raise what Nova raises for a server whose host is down."""


def _load(context: Any, server_id: str) -> Any:
    return objects.Instance.get_by_uuid(context, server_id, expected_attrs=["services", "system_metadata"])
