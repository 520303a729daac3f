/**
 * The one list of events: what a log record may be named, with what it means. Names are stable: alert rules and searches
 * in the journal match on them. The logger takes no other name.
 */
export const EVENTS = {
  // The daemon
  'daemon.started': 'The daemon waits for its schedule.',
  'daemon.stopped': 'The daemon has ended in good order.',
  'daemon.reloaded': 'The configuration was read again on SIGHUP; the fields tell what changed.',
  'daemon.reload_refused':
    'The configuration that was read on SIGHUP is wrong; the former one stays in force.',
  'daemon.restart_needed': 'Options changed that only a restart puts into force.',
  'daemon.notify_failed': 'The state of the service could not be told to systemd.',
  'control.failed': 'A client of the control socket asked for something that could not be done.',
  'history.unreadable': 'Lines of the run history could not be read and are passed over.',
  'history.not_saved': 'A run could not be written into the history.',
  'schedule.missed': 'A run that was due while presync did not run, or the machine slept, is caught up now.',

  // Runs of the daemon
  'run.started': 'A run has begun; the fields tell its id and why.',
  'run.done': 'A snapshot was taken.',
  'run.skipped': 'A run was left out: a gate was shut, or another run is under way.',
  'run.failed': 'A run failed; the code and the hint tell why and what to do.',
  'run.stopped': 'A run was stopped because the daemon ends.',
  'run.stalled': 'A run makes no progress; systemd is no longer told that the service lives.',
  'run.moved': 'A run that was stalled makes progress again.',
  'gate.shut': 'No snapshot is taken now; the field gates holds the ids of the gates.',

  // The node
  'node.started': 'The node was started.',
  'node.ready': 'The node is ready.',
  'node.not_ready': 'The node is not ready, or did not become so in time.',
  'node.stop_failed': 'The node could not be stopped.',
  'node.ended': 'The node, which is a child of presync, ended by itself.',
  'node.draining': 'No new requests are to come; the node is stopped after its last ones.',
  'node.drained': 'The node was stopped after its last requests.',
  'node.blocks_stalled': 'The node shows no new block since it was paused.',
  'pause.recovered': 'An earlier presync had left the node paused, or an intent to pause it; it runs again.',
  'hook.output': "A line that a user's own hook has written.",
  'pause.awaited': 'Another presync has the node paused; this one waits.',
  'rpc.not_closed': "The connection to the node's RPC could not be closed.",
  'view.frozen': 'The view is frozen and the node runs again.',
  'view.damaged': 'A file of a frozen view is not what it was.',

  // Snapshots
  'snapshot.unsigned': 'Snapshots are published without a signature.',
  'snapshot.published': 'The snapshot is stored, and not yet the newest.',
  'snapshot.promoted': 'The snapshot is proved, and the newest.',
  'snapshot.superseded': 'The snapshot is stored; a later one is the newest already.',
  'snapshot.previous_unusable': 'The last snapshot is of no help; everything is read.',
  'snapshot.previous_damaged':
    'The snapshot that this one builds upon lacks chunks; they are stored anew where they are needed.',
  'snapshot.record_wrong': 'A file changed that must not; everything is read.',
  'snapshot.record_not_saved': 'What was read could not be remembered; the next snapshot reads everything.',
  'snapshot.waits': 'A chunk that is needed again is just being removed; the snapshot waits for that.',
  'snapshot.quarantined': 'The snapshot failed its proof, and is not promoted.',
  'snapshot.reason_not_kept': 'Why a snapshot failed its proof could not be written beside it.',
  'proof.restored': 'The snapshot was restored into scratch space.',
  'proof.node_started': 'A node opens the restored copy.',
  'proof.node_passed': 'The node holds what the snapshot promises.',
  'proof.node_log': 'The last words of a node that did not pass.',
  'proof.flags_only': 'Only flags of the node keep the proof node from the network.',
  'proof.left': 'What a proof that was killed had left is cleared away.',
  'snapshot.after_failed': 'What follows a snapshot, as retention, failed; the snapshot itself is good.',
  'lease.not_renewed': 'A lease could not be renewed, and is tried again.',
  'lease.not_taken': 'The store takes no lease; what is read stays for the grace of collectors only.',
  'lease.not_dropped': 'A lease could not be dropped; it expires by itself.',

  'prune.snapshot_removed': 'A snapshot that retention does not keep is removed.',
  'prune.done': 'Retention was applied; the fields tell what was removed.',
  'prune.blocked': 'Nothing is removed, because nobody knows what a snapshot names.',
  'prune.not_remembered':
    'What a snapshot names could not be remembered here; the next run downloads its index again.',
  'verify.snapshot_removed': 'Retention has removed a snapshot while it was verified; it is left out.',
  'prune.damaged': 'A snapshot lacks chunks: somebody, or a rule of the bucket, has removed them.',

  // Stores and sources
  'store.settings': 'A store told how it wants to be spoken to.',
  'store.leftover': 'Something could not be removed from a store and costs money.',
  'store.retried': 'A call to the store failed and is made again.',
  'source.failed': 'A source could not give a chunk.',
  'source.dropped': 'A source is asked no more.',
  'source.hedged': 'A chunk was asked for a second time elsewhere.',
  'source.unfit': 'A source has no fit snapshot.',
  'source.other': 'A source holds another repository.',
  'download.retried': 'A download was broken off and goes on where it stopped.',
  'check.left_behind': 'The check of a store left objects behind.',

  // Restores and offers
  'preflight.passed': 'A check of the preflight has passed.',
  'preflight.warned': 'A check of the preflight found something to know of; the field check holds its id.',
  'preflight.refused': 'The preflight refuses; the field findings tells why, and what to change.',
  'preflight.overruled': 'A refusal of the preflight was overruled with --preflight-ignore.',
  'restore.done': 'The database is in place.',
  'restore.record_unusable': 'What was restored here before cannot be read; the store is asked.',
  'restore.plan': 'What a restore is about to do.',
  'restore.passed_over': 'A snapshot is not used; the code and the reason tell why.',
  'restore.snapshot_failed':
    'A snapshot turned out damaged while it was restored; it is remembered and not tried again.',
  'restore.fell_back': 'Another snapshot, or warp sync, takes the place of the one that was wanted.',
  'restore.warp_sync_faster':
    'By estimate the node would be ready sooner by warp sync than from the snapshot.',
  'restore.failures_unreadable':
    'What is remembered of snapshots that failed here cannot be read, and is passed over.',
  'restore.old_removed':
    'The old database is removed before the new one is there, to make room, as was allowed.',
  'restore.left': 'What was restored so far could not be removed.',
  'archive.list': 'A file list tells what an archive holds.',
  'archive.other': 'An archive holds another database as well.',
  'archive.skipped': 'Members of an archive were left out.',
  'archive.unproved': 'Nothing proves what an archive holds.',
  'offer.made': 'The view that is offered has its index and manifest.',
  'offer.before_unusable': 'The last offer is of no help; everything is read.',
  'serve.started': 'The repository or database is offered.',
  'serve.open': 'Everybody who reaches the server may read.',

  // The group of machines that an instance belongs to
  'group.heartbeat_failed': 'The group was not told that the launch still goes on.',
  'group.joined': 'The group knows that this instance may serve.',
  'group.join_failed': 'The group was not told what became of the launch.',
  'group.abandoned': 'The group knows that this instance is of no use.',
  'group.notice': 'The cloud tells that this instance will, or may, go away.',
  'group.leave_failed': 'The group was not told that the node has stopped.',

  // The cloud
  'cloud.found': 'The metadata service of a cloud has answered.',
  'cloud.none': 'No metadata service of a cloud answers; the fields tell why.',
  'cloud.notice': 'Something will happen to this instance; the fields tell what, and when.',
  'cloud.notice_over': 'What was told of this instance has happened, or is called off.',
  'cloud.event_approved': 'The cloud is told that an event of this instance may go on before its time.',
  'cloud.metadata_failed': 'The metadata service does not tell what will happen; it is asked again.',
  'cloud.metadata_back': 'The metadata service tells again what will happen.',
  'cloud.retried': 'A call to the group of this instance failed and is made again.',
  'cloud.hold_failed': 'The group cannot be kept waiting for this instance; it is tried again.',
  'cloud.hook_completed': 'A lifecycle hook of the group is completed.',
  'cloud.hook_absent':
    'Nothing waits at the lifecycle hook: it is completed already, or not for this instance.',
  'cloud.hook_unseen': 'The lifecycle hook may not be looked at; it is used as it is named.',
  'cloud.hook_gone': 'The group has stopped waiting at the lifecycle hook before it was completed.',
  'cloud.hook_limit': 'The group waits no longer at the lifecycle hook, whatever it is told.',

  // Keys and trust
  'keys.created': 'A private key was made.',
  'keys.exposed': 'Others than its owner may read a private key.',
  'trust.off': 'Signatures are not checked.',
  'trust.disabled': 'Signatures are not checked.',
  'signing.disabled': 'Snapshots are published without a signature.',

  // Progress and traces
  'progress.advanced': 'How far long work is.',
  'progress.finished': 'Long work is done.',
  'trace.not_sent': 'Traces could not be sent; nothing else is affected.',
} as const;

/** The stable name of what happened, `<area>.<event>`, as `snapshot.published`. */
export type EventName = keyof typeof EVENTS;
