/** Minutes of a day. */
const DAY = 24 * 60;

/**
 * The range of the day that the instant falls into, by the clocks of the zone, or undefined. A range is `HH:MM-HH:MM`, its end not included; one that ends
 * before it begins goes over midnight, and one that ends where it begins is the whole day.
 */
export function quietHoursAt(ranges: readonly string[], timezone: string, instant: Date): string | undefined {
  if (ranges.length === 0) return undefined;
  const now = minuteOfDay(timezone, instant);
  return ranges.find((range) => {
    const [from = 0, until = 0] = range.split('-').map(minutesOf);
    const length = (until - from + DAY) % DAY || DAY;
    return (now - from + DAY) % DAY < length;
  });
}

function minutesOf(text: string): number {
  const [hours = 0, minutes = 0] = text.split(':').map(Number);
  return hours * 60 + minutes;
}

function minuteOfDay(timezone: string, instant: Date): number {
  const time = new Intl.DateTimeFormat('en-GB', {
    timeZone: timezone,
    hour: '2-digit',
    minute: '2-digit',
    hourCycle: 'h23',
  });
  return minutesOf(time.format(instant));
}
