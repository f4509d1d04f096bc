// The camera: one frame after another, each segmented before the next is taken.

const TARGET = 0.18; // seconds a frame may take: the frames are made as large as that allows
const SMALLEST = 40_000; // pixels
const LARGEST = 400_000;

export class Camera {
  /**
   * @param {{frame: (bitmap: ImageBitmap, maxPixels: number) => Promise<number>,
   *   onRate: (rate: number) => void, onError: (error: Error) => void}} events `frame` segments
   *   and shows a frame, and returns the pixels it had.
   */
  constructor(events) {
    this.events = events;
    this.video = null;
    this.starting = false; // the browser is asking the person
    this.maxPixels = 100_000;
  }

  get running() {
    return this.video !== null;
  }

  async start() {
    if (this.running || this.starting) return;
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error("No camera here: browsers give it to pages from https or this machine only.");
    }
    this.starting = true;
    try {
      const stream = await navigator.mediaDevices.getUserMedia({
        video: { facingMode: "environment", width: { ideal: 1280 }, height: { ideal: 720 } },
      });
      const video = document.createElement("video");
      video.muted = video.playsInline = true;
      video.srcObject = stream;
      await video.play();
      this.video = video;
    } finally {
      this.starting = false;
    }
    this.run(this.video);
  }

  stop() {
    for (const track of this.video?.srcObject.getTracks() ?? []) track.stop();
    this.video = null;
  }

  async run(video) {
    const times = [];
    while (this.video === video) {
      try {
        const started = performance.now();
        const pixels = await this.events.frame(await createImageBitmap(video), this.maxPixels);
        const seconds = (performance.now() - started) / 1000;
        this.adapt(pixels, seconds);
        times.push(performance.now());
        if (times.length > 8) times.shift();
        if (times.length > 1) {
          this.events.onRate((1000 * (times.length - 1)) / (times.at(-1) - times[0]));
        }
        await new Promise(requestAnimationFrame);
      } catch (error) {
        if (this.video === video) this.events.onError(error);
        this.stop();
      }
    }
  }

  /** Moves the size of frames towards what takes the target time. */
  adapt(pixels, seconds) {
    const fitting = (pixels * TARGET) / seconds;
    const next = 0.7 * this.maxPixels + 0.3 * fitting;
    this.maxPixels = Math.min(LARGEST, Math.max(SMALLEST, next));
  }
}
