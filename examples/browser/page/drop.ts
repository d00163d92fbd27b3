/** Files and folders that are dropped anywhere on the page. */
import { find } from "./dom.ts";

/** Hands over the files of each drop; those of a folder with it. */
export function dropFiles(onFiles: (files: File[]) => void): void {
  const cover = find("drop", HTMLElement);
  const hasFiles = (event: DragEvent): boolean => event.dataTransfer?.types.includes("Files") === true;
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    cover.hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) cover.hidden = true;
  });
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    cover.hidden = true;
    void filesOf(event.dataTransfer!).then((files) => {
      if (files.length > 0) onFiles(files);
    });
  });
}

/** Entries have to be asked for while the event is handled: afterwards the list is empty. */
async function filesOf(data: DataTransfer): Promise<File[]> {
  const plain = [...data.files];
  const folders = [...data.items].flatMap((item) => {
    const entry = item.webkitGetAsEntry?.();
    return entry?.isDirectory === true ? [entry as FileSystemDirectoryEntry] : [];
  });
  if (folders.length === 0) return plain;
  const inside = await Promise.all(folders.map(filesInside));
  // a dropped folder is in the list of files as well, as a file that can't be read
  const names = new Set(folders.map(({ name }) => name));
  return [...plain.filter(({ name }) => !names.has(name)), ...inside.flat()];
}

async function filesInside(folder: FileSystemDirectoryEntry): Promise<File[]> {
  const reader = folder.createReader(), files: File[] = [];
  for (;;) {
    // a hundred at a time
    const entries = await new Promise<FileSystemEntry[]>((resolve, reject) =>
      reader.readEntries(resolve, reject)
    );
    if (entries.length === 0) return files;
    for (const entry of entries) {
      if (entry.isFile) {
        files.push(
          await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject)),
        );
      }
    }
  }
}
