import { createCgroupHold } from './cgroup-hold.ts';
import { createContainerHold } from './container-hold.ts';
import type { Hold, OnOutput } from './hold.ts';
import { createHooksHold } from './hooks-hold.ts';
import type { PauseTarget } from './pause-target.ts';
import { createProcessHold } from './process-hold.ts';
import { createUnitHold } from './unit-hold.ts';

/** The hold on a target, whoever found it: a pauser, or the intent of an earlier presync. */
export function holdOf(target: PauseTarget, options: { onOutput?: OnOutput | undefined } = {}): Hold {
  switch (target.kind) {
    case 'process':
      return createProcessHold(target.node);
    case 'cgroup':
      return createCgroupHold(target);
    case 'unit':
      return createUnitHold(target);
    case 'container':
      return createContainerHold(target);
    case 'hooks':
      return createHooksHold(target, options);
  }
}
