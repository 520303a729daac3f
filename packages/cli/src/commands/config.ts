import { COMMAND_NAMES, type CommandName, commandOf, isCommandName } from '@presync/runtime/commands';
import { assertRequired, describeSource } from '@presync/runtime/config';
import { PresyncError } from '@presync/runtime/errors';
import { nearest } from '@presync/runtime/nearest';
import { configReference, configSchema } from '@presync/runtime/reference';
import type { CommandHandler } from '../command.ts';

export const configPrint: CommandHandler<'config print'> = async ({ loaded, args }) => {
  const command = commandFrom(args);
  const shown = loaded.explained.filter(
    ({ name }) => command === undefined || commandOf(command).options.includes(name),
  );
  const rows = shown.map(({ name, value, source }) => [
    name,
    value === null ? '-' : typeof value === 'string' ? value : JSON.stringify(value),
    describeSource(source),
  ]);
  return {
    json: {
      file: loaded.file ?? null,
      options: Object.fromEntries(shown.map(({ name, value, source }) => [name, { value, source }])),
    },
    text: table(rows),
  };
};

export const configCheck: CommandHandler<'config check'> = async ({ loaded, config, args }) => {
  const command = commandFrom(args);
  if (command !== undefined) assertRequired(command, (name) => config[name]);
  const given = loaded.explained.filter(({ source }) => source.kind !== 'default').length;
  const where = loaded.file === undefined ? 'no configuration file' : `configuration file ${loaded.file}`;
  return {
    json: { ok: true, file: loaded.file ?? null, command: command ?? null, given },
    text: [
      `The configuration is sound${command === undefined ? '' : ` for presync ${command}`}: ${where}, ${given} ${given === 1 ? 'option' : 'options'} given.`,
    ],
  };
};

export const configSchemaCommand: CommandHandler<'config schema'> = async () => {
  const schema = configSchema();
  return { json: schema, text: [JSON.stringify(schema, null, 2)] };
};

export const configReferenceCommand: CommandHandler<'config reference'> = async () => {
  const markdown = configReference().trimEnd();
  return { json: { markdown }, text: [markdown] };
};

function commandFrom(args: readonly string[]): CommandName | undefined {
  if (args.length === 0) return undefined;
  const name = args.join(' ');
  if (isCommandName(name)) return name;
  const candidate = nearest(name, COMMAND_NAMES);
  throw new PresyncError('USAGE', `there is no command "${name}"`, {
    hint:
      candidate === undefined
        ? '"presync help" lists the commands'
        : `write ${candidate}, if that is what was meant`,
  });
}

/** Columns as wide as their widest cell; the last one as it is. */
function table(rows: readonly string[][]): string[] {
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, column) => {
      widths[column] = Math.max(widths[column] ?? 0, cell.length);
    });
  }
  return rows.map((row) =>
    row
      .map((cell, column) => (column === row.length - 1 ? cell : cell.padEnd(widths[column] ?? 0)))
      .join('  '),
  );
}
