// Downloads of large files: with progress, and unpacked here.

/**
 * Fetches a file.
 *
 * @param {string} address relative to the page.
 * @param {(loaded: number) => void} onProgress told the bytes that have come.
 * @param {object} headers to send.
 * @returns {Promise<ArrayBuffer>}
 */
export function download(address, onProgress, headers = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch reports no progress but piece by piece
    request.open("GET", address);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.responseType = "arraybuffer";
    request.onprogress = ({ loaded }) => onProgress(loaded);
    request.onload = () => {
      if (request.status === 200) resolve(request.response);
      else reject(new Error(`${address}: the host answered ${request.status}.`));
    };
    request.onerror = () => reject(new Error(`${address} cannot be loaded: no connection.`));
    request.send();
  });
}

/** Unpacks gzip; a host that sends Content-Encoding made the browser unpack it already. */
export async function unpacked(buffer) {
  const [first, second] = new Uint8Array(buffer, 0, 2);
  if (first !== 0x1f || second !== 0x8b) return buffer;
  const stream = new Blob([buffer]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}
