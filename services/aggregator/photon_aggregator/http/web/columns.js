// Columns of rounds that grow: each answer holds some rounds, of which the first may be known already and now say more.

export class Columns {
  constructor() { this.first = 0; this.length = 0; this.byName = new Map(); }

  get last() { return this.first + this.length - 1; }

  column(name) { return this.byName.get(name) ?? []; }

  merge(first, last, columns) {
    if (last < first) return;
    if (!this.length || first < this.first) { // older rounds came: an answer that has them has all
      this.first = first;
      this.length = 0;
      this.byName.clear();
    }
    const offset = first - this.first;
    this.length = Math.max(this.length, last - this.first + 1);
    for (const name of Object.keys(columns)) if (!this.byName.has(name)) this.byName.set(name, []);
    for (const [name, column] of this.byName) {
      const given = columns[name];
      while (column.length < this.length) column.push(null);
      for (let i = offset; i < this.length; i += 1) column[i] = given?.[i - offset] ?? null;
    }
  }
}
