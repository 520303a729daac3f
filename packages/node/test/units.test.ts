/** What needs systemd, in a machine where it runs: `programs/units.ts`. */
import assert from 'node:assert/strict';
import { dirname, join, resolve } from 'node:path';
import { test } from 'node:test';
import { hasMachine, startMachine } from '../../../test/support/machine.ts';
import { needs } from '../../../test/support/needs.ts';

const PROJECT = resolve(import.meta.dirname, '../../..');

test(
  'units are frozen and stopped by a real systemd',
  needs('root, systemd-nspawn and a Debian tree', hasMachine()),
  async (t) => {
    // Under their own names: the project, and the runtime, which may lie elsewhere.
    const folders = new Set([PROJECT, dirname(process.execPath)]);
    const machine = await startMachine({
      binds: [...folders].map((folder) => ({ from: folder, to: folder, readOnly: true })),
    });
    t.after(() => machine.end());
    const program = join(import.meta.dirname, 'programs/units.ts');
    const { code, stdout, stderr } = await machine.run(
      ...[process.execPath, '--test', '--test-reporter=spec', program],
    );
    assert.equal(code, 0, `${stdout}\n${stderr}`);
    assert.match(stdout, /^ℹ pass [1-9]/m);
  },
);
