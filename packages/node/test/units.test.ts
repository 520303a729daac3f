/** What needs systemd, in a machine where it runs: `programs/units.ts`. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { needs } from '../../../test/support/needs.ts';
import { bootMachine, canBootMachine } from '../../../test/support/systemd-machine.ts';

test(
  'units are frozen and stopped by a real systemd',
  needs('root and systemd-nspawn', canBootMachine()),
  async (t) => {
    const machine = await bootMachine();
    t.after(() => machine.stop());
    const program = join(import.meta.dirname, 'programs/units.ts');
    const { code, output } = await machine.run([process.execPath, '--test', '--test-reporter=spec', program]);
    assert.equal(code, 0, output);
    assert.match(output, /^ℹ pass [1-9]/m);
  },
);
