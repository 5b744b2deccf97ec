// Uses examples/browser/ as a person would, in Chromium, and prints what the page found: a line of JSON for each image,
// the camera last.
//
//     node drive.mjs CHROMIUM URL MODEL CAMERA(.mjpeg) IMAGE...
import puppeteer from "puppeteer-core";

const [executablePath, url, model, camera, ...images] = process.argv.slice(2);
const browser = await puppeteer.launch({
  executablePath,
  args: [
    "--no-sandbox", // Chromium's own does not start as root
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    `--use-file-for-fake-video-capture=${camera}`,
  ],
});
try {
  const page = await browser.newPage();
  page.on("console", (message) => console.error(message.text()));
  page.on("pageerror", (error) => console.error(error));
  await page.goto(url);
  // Waits for a condition of the page's, or for what it says is wrong.
  const until = async (condition) => {
    await page.waitForFunction(`${condition} || document.getElementById("status").className`, { timeout: 120000 });
    const [wrong, text] = await page.$eval("#status", (status) => [status.className, status.textContent]);
    if (wrong) throw new Error(text);
  };
  const found = async (action) => {
    await page.evaluate(() => delete window.found);
    await action();
    await until("window.found");
    console.log(await page.evaluate(() => JSON.stringify(window.found)));
  };
  await (await page.$("#model")).uploadFile(model);
  await until('document.getElementById("status").textContent.includes("Choose an image")');
  for (const image of images) await found(async () => (await page.$("#image")).uploadFile(image));
  await found(() => page.click("#camera"));
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  await browser.close();
}
