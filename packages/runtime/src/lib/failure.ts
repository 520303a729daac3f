import { type ErrorCode, messageOf, PresyncError } from '../errors.ts';
import { redactText } from '../redact.ts';

/** What the command tells of an error. */
export interface FailureReport {
  code: ErrorCode;
  message: string;
  hint: string | undefined;
  exitCode: number;
  stack: string | undefined;
}

/** A cause says why; deeper ones are seldom of use and may go round. */
const MAX_CAUSES = 5;

export function describeFailure(error: unknown): FailureReport {
  const known =
    error instanceof PresyncError
      ? error
      : new PresyncError('INTERNAL', `a defect in presync: ${messageOf(error)}`, {
          cause: error,
          hint: 'report this, with the lines below',
        });
  return {
    code: known.code,
    message: redactText(known.message),
    hint: known.hint,
    exitCode: known.exitCode,
    stack: stackOf(error),
  };
}

function stackOf(error: unknown): string | undefined {
  const stacks: string[] = [];
  let current = error;
  for (let depth = 0; current instanceof Error && depth < MAX_CAUSES; depth++) {
    stacks.push(`${depth === 0 ? '' : 'caused by '}${current.stack ?? current.message}`);
    current = current.cause;
  }
  return stacks.length === 0 ? undefined : redactText(stacks.join('\n'));
}
