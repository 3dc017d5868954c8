// The weights of every position that one block can be asked for, as nl_jax/figures/explore.py packs them.
class Rows {
  static async read(block) {
    const bytes = Uint8Array.from(atob(block.packed), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Rows(block, await new Response(stream).arrayBuffer());
  }

  constructor(block, buffer) {
    const { pairwise, shape, keys, rows, columns, frames, signed } = block;
    Object.assign(this, { pairwise, shape, keys, rows, columns, frames, signed });
    this.size = keys[0] * keys[1] * keys[2];
    const count = shape[0] * rows.length * columns.length;
    this.scales = new Float32Array(buffer, 0, count);
    this.levels = new Uint8Array(buffer, 4 * count, count * this.size);
    this.signs = signed ? new Uint8Array(buffer, (4 + this.size) * count) : null;
  }

  // The asked position nearest to a place, which is given as shares of the clip's time, height and width.
  nearest([time, y, x]) {
    const [t, h, w] = this.shape;
    const closest = (asked, at) =>
      asked.reduce((best, place, index) => (Math.abs(place - at) < Math.abs(asked[best] - at) ? index : best), 0);
    return {
      frame: Math.min(t - 1, Math.floor(time * t)),
      row: closest(this.rows, y * h - 0.5),
      column: closest(this.columns, x * w - 0.5),
    };
  }

  // The middle of an asked position, as shares of time, height and width.
  middle({ frame, row, column }) {
    const [t, h, w] = this.shape;
    return [(frame + 0.5) / t, (this.rows[row] + 0.5) / h, (this.columns[column] + 0.5) / w];
  }

  // What an asked position looks at: 0 to 255 for each key, whether a key's weight is negative, and the largest weight.
  of({ frame, row, column }) {
    const index = (frame * this.rows.length + row) * this.columns.length + column;
    const start = index * this.size;
    const levels = this.levels.subarray(start, start + this.size);
    const negative = (key) => this.signs !== null && ((this.signs[(start + key) >> 3] >> (7 - ((start + key) & 7))) & 1) === 1;
    return { levels, negative, largest: this.scales[index] };
  }

  // The keys of the largest weights by size, the strongest first; weights of 0 are left out.
  strongest({ levels }, count) {
    const order = Array.from(levels.keys()).filter((key) => levels[key]);
    return order.sort((one, two) => levels[two] - levels[one] || one - two).slice(0, count);
  }

  // The frame, row and column of a key.
  place(key) {
    const [, height, width] = this.keys;
    return [Math.floor(key / (height * width)), Math.floor(key / width) % height, key % width];
  }
}
