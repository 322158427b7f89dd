# SPDX-License-Identifier: Apache-2.0
"""Quiesce, unquiesce and the thaw that comes by itself: what is checked, recorded and called, in which order."""

from __future__ import annotations

import functools
from typing import Any, Optional

import oslo_messaging
from nova import exception, objects, servicegroup
from nova.compute import api as compute_api
from nova.compute import vm_states
from nova.i18n import _
from oslo_concurrency import lockutils
from oslo_log import log as logging

from nova_quiesce import record as freeze_record
from nova_quiesce.guest import Guest
from nova_quiesce.record import FreezeRecord
from nova_quiesce.timers import Timers

LOG = logging.getLogger(__name__)

# Between two attempts to thaw a server whose time is over: soon, since it is an outage, but no flood in the log.
RETRY_SECONDS = 5


class AlreadyQuiesced(exception.Invalid):
    msg_fmt = _("Instance %(server_id)s is already quiesced, since %(since)s and until %(expires_at)s at the latest")
    code = 409


class NoAnswer(exception.NovaException):
    msg_fmt = _("The compute service did not answer in time whether instance %(server_id)s was %(action)sd. %(consequence)s")
    code = 504


def one_at_a_time(server_id: str) -> Any:
    """Return the context manager within which a server's freeze and its record change together, in this process."""
    return lockutils.lock(f"nova-quiesce-{server_id}")


class Quiescing:
    """Quiesces and unquiesces servers. Callers hold `one_at_a_time` from before they load the instance."""

    def __init__(self, guest: Optional[Guest] = None) -> None:  # noqa: UP045 - the oldest Python of a supported Nova
        self._guest = guest or Guest()
        self._timers = Timers()
        self.servicegroup_api = servicegroup.API()  # the name that Nova's check_instance_host looks for

    @compute_api.check_instance_lock
    @compute_api.check_instance_state(vm_state=[vm_states.ACTIVE])
    @compute_api.check_instance_host(check_is_up=True)
    def quiesce(self, context: Any, instance: Any, timeout: int) -> None:
        """Freeze the guest's file systems, for `timeout` seconds at most.

        :param context: a request context targeted at the instance's cell
        :raises AlreadyQuiesced: it is; its time goes on unchanged
        :raises NoAnswer: the guest may have been frozen; it is being thawed
        :raises nova.exception.NovaException, NotImplementedError: the state does not allow it, or nova-compute refused
        """
        self._refuse_if_quiesced(context, instance)
        record = FreezeRecord.beginning_now(timeout)
        # Written and timed before the call: whatever happens in it, the server will be thawed.
        record.write(instance)
        self._thaw_in(timeout, context, instance.uuid, record)
        try:
            self._guest.freeze(context, instance, timeout)
        except (exception.NovaException, NotImplementedError):
            self._forget(context, instance.uuid, record)
            raise
        except Exception as error:
            LOG.exception("No answer to the quiesce, thawing.", instance=instance)
            self._thaw_in(0, context, instance.uuid, record)
            if not isinstance(error, oslo_messaging.MessagingException):
                raise
            raise NoAnswer(server_id=instance.uuid, action="quiesce", consequence="It is being thawed.") from error
        self._keep(context, instance.uuid, record)
        LOG.info("Quiesced until %s at the latest.", record.expires_at, instance=instance)

    @compute_api.check_instance_lock
    @compute_api.check_instance_state(vm_state=[vm_states.ACTIVE], task_state=None)
    @compute_api.check_instance_host(check_is_up=True)
    def unquiesce(self, context: Any, instance: Any) -> None:
        """Thaw the guest's file systems; return when they are thawed. A server that is not quiesced stays so.

        :param context: a request context targeted at the instance's cell
        :raises NoAnswer: the guest may still be frozen; the thaw that comes by itself remains
        :raises nova.exception.NovaException, NotImplementedError: the state does not allow it, or nova-compute refused
        """
        try:
            self._guest.thaw(context, instance)
        except oslo_messaging.MessagingException as error:
            LOG.exception("No answer to the unquiesce.", instance=instance)
            raise NoAnswer(server_id=instance.uuid, action="unquiesce", consequence="It may still be quiesced: try again.") from error
        self._forget(context, instance.uuid)
        LOG.info("Unquiesced.", instance=instance)

    def _refuse_if_quiesced(self, context: Any, instance: Any) -> None:
        found = FreezeRecord.of(instance)
        if found is None:
            return
        if not found.expired:
            raise AlreadyQuiesced(server_id=instance.uuid, since=found.since, expires_at=found.expires_at)
        # The nova-api process that should have thawed it has died.
        LOG.warning("Quiesced since %s and never thawed: thawing before it is quiesced anew.", found.since, instance=instance)
        self._guest.thaw(context, instance)

    def _keep(self, context: Any, server_id: str, record: FreezeRecord) -> None:
        """Write the record again if another process, refused by the guest as we froze it, has written its own over it."""
        instance = _load(context, server_id)
        if FreezeRecord.of(instance) != record:
            record.write(instance)

    def _forget(self, context: Any, server_id: str, record: Optional[FreezeRecord] = None) -> None:  # noqa: UP045
        """Remove the timer and the record: the one given, or any."""
        self._timers.cancel(server_id)
        # Loaded anew: saving writes all system metadata, and Nova may have changed some during the call.
        instance = _load(context, server_id)
        if record is None or FreezeRecord.of(instance) == record:
            freeze_record.erase(instance)

    def _thaw_in(self, seconds: float, context: Any, server_id: str, record: FreezeRecord) -> None:
        self._timers.start(server_id, seconds, functools.partial(self._thaw_unasked, context.elevated(), server_id, record))

    def _thaw_unasked(self, context: Any, server_id: str, record: FreezeRecord) -> None:
        try:
            with one_at_a_time(server_id):
                instance = _load(context, server_id)
                found = FreezeRecord.of(instance)
                if found not in (None, record):
                    LOG.info("Quiesced anew meanwhile, so not thawed.", instance=instance)
                    return
                if instance.vm_state == vm_states.ACTIVE:
                    self._guest.thaw(context, instance)
                self._forget(context, server_id, record)
                LOG.warning("Thawed: nobody had unquiesced it until %s.", record.expires_at, instance=instance)
        except exception.InstanceNotFound:
            LOG.info("Server %s was deleted while it was quiesced.", server_id)
        except Exception:
            LOG.exception("Server %s is quiesced past its time and could not be thawed; next attempt in %s s.", server_id, RETRY_SECONDS)
            self._thaw_in(RETRY_SECONDS, context, server_id, record)


def _load(context: Any, server_id: str) -> Any:
    return objects.Instance.get_by_uuid(context, server_id, expected_attrs=["system_metadata"])
