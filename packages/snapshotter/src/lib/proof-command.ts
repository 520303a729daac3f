import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { PresyncError } from '@presync/runtime/errors';

/** What a proof command is given. */
export interface ProofPlaces {
  basePath: string;
  rpcPort: number;
}

/** Flags that would make blocks, or use this machine's keys. */
const FORBIDDEN =
  /^--(?:validator|collator|force-authoring|keystore-path|keystore-uri|node-key|node-key-file)(?:=|$)/;

/** Checks a proof command before anything is done for it (CONFIG_INVALID). */
export async function checkProofCommand(command: readonly string[]): Promise<void> {
  for (const placeholder of ['{basePath}', '{rpcPort}']) {
    if (command.some((argument) => argument.includes(placeholder))) continue;
    throw new PresyncError('CONFIG_INVALID', `the proof command does not say ${placeholder}`, {
      hint: 'give it as ["polkadot","--chain","polkadot","--base-path","{basePath}","--rpc-port","{rpcPort}"]: the node is to open the restored copy, and nothing else',
    });
  }
  const forbidden = command.find((argument) => FORBIDDEN.test(argument));
  if (forbidden !== undefined) {
    throw new PresyncError('CONFIG_INVALID', `the proof command has ${forbidden.split('=')[0]}`, {
      hint: 'leave it out: a proof node makes no blocks, and uses none of the keys of this machine',
    });
  }
  const [program = ''] = command;
  if (!(await isExecutable(program))) {
    throw new PresyncError('CONFIG_INVALID', `the proof command ${program} is no executable file`, {
      hint: "give the path of the node's executable",
    });
  }
}

async function isExecutable(program: string): Promise<boolean> {
  const folders = program.includes('/') ? [''] : (process.env.PATH ?? '').split(delimiter);
  for (const folder of folders) {
    try {
      await access(join(folder, program), constants.X_OK);
      return true;
    } catch {
      // Perhaps in the next folder.
    }
  }
  return false;
}

/** The command with its places filled in. */
export function fillIn(command: readonly string[], places: ProofPlaces): string[] {
  return command.map((argument) =>
    argument
      .replaceAll('{basePath}', () => places.basePath)
      .replaceAll('{rpcPort}', () => String(places.rpcPort)),
  );
}
